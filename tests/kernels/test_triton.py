"""The Triton kernels against the references: in Triton's interpreter, or on the GPU where there is one."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from divisions import OnDevice
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton")

from silverray.kernels import bits, plans, programs, refine, retrieve, scan_reference, scores, survivors
from silverray.kernels.gpu import programs as gpu_programs
from silverray.kernels.gpu import refine as gpu_refine
from silverray.kernels.gpu import retrieve as gpu_retrieve
from silverray.kernels.gpu import scan as gpu_scan
from silverray.kernels.gpu import scores as gpu_scores
from silverray.kernels.gpu import select as gpu_select
from silverray.kernels.gpu import survivors as gpu_survivors
from silverray.kernels.topk import reference as top_k
from silverray.shard.snapshot.recall_curve import RecallCurve

from .cases import Lists, assert_same, assert_same_rows, make_lists
from .test_retrieve import arguments_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SIZES = [(1, 1, 1, 1), (63, 16, 2, 3), (64, 50, 3, 2), (65, 128, 4, 17), (521, 200, 5, 33)]
"""Slots, dimensions, clusters and queries: across the edges of words, tiles and groups."""


def on_device(value: object) -> object:
    return value.to(DEVICE) if isinstance(value, Tensor) else value


def run(launch: Callable[..., object], *arguments: object) -> tuple[Tensor, ...]:
    found = launch(*(on_device(argument) for argument in arguments))
    return tuple(part.cpu() for part in (found if isinstance(found, tuple) else (found,)))


def test_lists_are_moved_whole() -> None:
    assert all(isinstance(getattr(make_lists(3, 4), field.name), Tensor) for field in fields(Lists))


@pytest.mark.parametrize(("n", "d", "clusters", "queries"), SIZES)
def test_programs(n: int, d: int, clusters: int, queries: int) -> None:
    lists = make_lists(n, d, clusters, queries, seed=n)
    expected = programs.reference(lists.planes, lists.programs)
    assert_same(run(gpu_programs.launch, lists.planes, lists.programs), (expected,))
    for slots in (0, n // 2, n):
        counts = programs.count_reference(lists.planes, lists.programs, slots)
        assert_same(run(gpu_programs.launch_count, lists.planes, lists.programs, slots), (counts,))
    wanted = torch.rand(len(lists.programs), clusters) < 0.5
    inside = bits.count_ranges(expected, lists.offsets) * wanted
    arguments = lists.planes, lists.programs, lists.offsets, wanted.to(torch.int8)
    assert_same(run(gpu_programs.count_lists, *arguments), (inside,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("d", [1, 3, 50, 128, 300])
def test_exact_scores_bit_for_bit(d: int, dtype: torch.dtype) -> None:
    lists, g = make_lists(77, d, queries=5, dtype=dtype), torch.Generator().manual_seed(d)
    pairs = torch.randint(0, 5, (131,), generator=g), torch.randint(-1, 77, (131,), generator=g)
    expected = scores.reference(lists.vectors, lists.queries, *pairs)
    assert_same(run(gpu_scores.launch, lists.vectors, lists.queries, *pairs), (expected,))


@pytest.mark.parametrize(
    ("n", "k", "values"),
    [(1, 1, 3), (300, 10, 3), (300, 10, 10**6), (5000, 257, 40), (4097, 300, 10**6), (257, 256, 1)],
)
def test_selection_is_that_of_top_k_ties_and_missing_places_included(n: int, k: int, values: int) -> None:
    g = torch.Generator().manual_seed(n + k)
    some = torch.randint(-values, values + 1, (4, n), generator=g) / 7.0
    some[0, : n // 3], some[1, n // 2 :] = -torch.inf, -0.0
    items = torch.stack([torch.randperm(n + 5, generator=g)[:n] for _ in some]).int()
    keys = torch.randperm(n + 5, generator=g) * ((1 << 62) // (n + 5))
    counts = torch.tensor([n, n // 2, n + 7, 0])

    def select_and_rank(some: Tensor, items: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        return gpu_select.rank(*gpu_select.select(some, items, counts, keys.to(DEVICE), k), keys.to(DEVICE))

    there = some.masked_fill(torch.arange(n) >= counts[:, None], -torch.inf)
    best, places = top_k(there, keys[items.long()], k)
    expected = torch.where(places >= 0, items.long().gather(1, places.clamp(min=0)), -1)
    assert_same(run(select_and_rank, some, items, counts), (best, expected))


@pytest.mark.parametrize(("n", "d", "clusters", "queries"), SIZES)
def test_scans(n: int, d: int, clusters: int, queries: int) -> None:
    lists = make_lists(n, d, clusters, queries, max(1, clusters // 2), seed=n)
    for keep in (1, 20, n):
        assert_same_rows(run(gpu_scan.launch, *lists.scan, keep), scan_reference.scan(*lists.scan, keep))
    assert_same(run(gpu_scan.launch_exact, *lists.exact_scan, 9), scan_reference.exact_scan(*lists.exact_scan, 9))


def test_a_scan_says_whose_room_was_too_small() -> None:
    lists = make_lists(1000, 16, 4, 5, 4, filters=("all", "none"), seed=2)
    probed = torch.zeros(5, 5, dtype=torch.int8).scatter_(1, torch.where(lists.probes >= 0, lists.probes, 4), 1)[:, :4]
    words = programs.reference(lists.planes, lists.programs)
    found = run(
        gpu_scan.scan_lists, lists.codes, lists.scales, lists.offsets, words, lists.filters, lists.queries,
        probed.contiguous(), lists.bases, 100,
    )  # fmt: skip
    inside = (bits.count_ranges(words, lists.offsets)[lists.filters] * probed).sum(1)
    assert found[2].tolist() == inside.tolist()
    full = inside > 100
    assert 0 < full.sum() < 5
    for row in torch.nonzero(full)[:, 0]:
        assert len(np.unique(found[1][row])) == 100  # all places are filled, none twice


def test_candidates_and_survivors() -> None:
    lists = make_lists(700, 40, queries=6, dtype=torch.bfloat16, seed=4)
    candidates = torch.stack([torch.randperm(700)[:150] for _ in range(6)])
    candidates[:, ::7] = -1
    for k in (1, 50, 200):
        arguments = lists.vectors, lists.keys, lists.queries, candidates, k
        assert_same(run(gpu_refine.launch, *arguments), refine.reference(*arguments))
        words = programs.reference(lists.planes, lists.programs)
        others = lists.vectors, lists.keys, words, lists.filters, lists.queries, k
        assert_same(run(gpu_survivors.launch, *others), survivors.reference(*others))


def test_survivors_are_scored_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = make_lists(300, 8, queries=5, seed=4)
    words = programs.reference(lists.planes, lists.programs)
    arguments = lists.vectors, lists.keys, words, lists.filters, lists.queries, 9
    monkeypatch.setattr(gpu_survivors, "MAX_LISTED", 500)
    assert_same(run(gpu_survivors.launch, *arguments), survivors.reference(*arguments))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("n", "d", "clusters", "queries", "keep", "k"),
    [(1, 1, 1, 1, 1, 1), (64, 16, 2, 3, 5, 9), (513, 50, 17, 20, 40, 10), (300, 300, 9, 5, 300, 300)],
)
def test_the_whole_search(n: int, d: int, clusters: int, queries: int, keep: int, k: int, dtype: torch.dtype) -> None:
    for share in (0, 0.4):
        its = arguments_of(make_lists(n, d, clusters, queries, seed=n, dtype=dtype), n, keep, k, share)
        assert_same(run(gpu_retrieve.launch, *its), retrieve.reference(*its))


WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "bincount", "repeat_interleave"}


class NoWaiting(TorchDispatchMode):
    """Refuses operators whose result, or its shape, the host would have to wait for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, op: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        name = op.overloadpacket.__name__
        assert name not in WAITING and not name.startswith("unique"), name
        assert name != "_to_copy" or "device" not in (options or {}), "a copy between devices"
        return op(*arguments, **(options or {}))


def test_a_search_never_waits_for_the_gpu() -> None:
    its = arguments_of(make_lists(300, 16, 6, 12, seed=1), 1)
    its = retrieve.Arguments._make(on_device(part) for part in its)
    curve = RecallCurve(torch.tensor([1.0, 100.0]), torch.tensor([0.1, 0.5])).lines().to(DEVICE)
    with NoWaiting():
        gpu_retrieve.launch(*its)
        plans.reference(its.planes, its.programs, its.filters, its.filters, curve, 300, 300, 50)
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoWaiting():
        int(its.passing.sum())


def test_a_search_divides_by_nothing_whose_reciprocal_a_gpu_would_take() -> None:
    its = retrieve.Arguments._make(map(on_device, arguments_of(make_lists(300, 16, 6, 12, seed=1), 1)))
    curve = RecallCurve(torch.tensor([1.0, 100.0]), torch.tensor([0.1, 0.5])).lines().to(DEVICE)
    with OnDevice():
        gpu_retrieve.launch(*its)
        plans.reference(its.planes, its.programs, its.filters, its.filters, curve, 300, 300, 50)


def test_equal_scores_are_kept_and_ordered_by_key() -> None:
    lists = make_lists(600, 32, 8, 5, seed=3)
    lists.codes[:], lists.scales[:], lists.centroids[:] = lists.codes[0].clone(), 0.5, 0.1
    lists.vectors[:] = lists.vectors[:5].repeat(120, 1)
    its = arguments_of(lists, 1, 60, 20)
    assert_same(run(gpu_retrieve.launch, *its), retrieve.reference(*its))


def test_a_room_that_is_too_small_is_reported() -> None:
    its = arguments_of(make_lists(900, 16, 6, 12, seed=1), 1, 20, 5)._replace(room=30)
    scores_, slots, overflow = run(gpu_retrieve.launch, *its)
    expected = retrieve.reference(*its)
    assert 0 < overflow.sum() < 12
    assert_same((scores_[~overflow], slots[~overflow]), (expected[0][~overflow], expected[1][~overflow]))
