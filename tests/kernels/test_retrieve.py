"""Retrieving in one call against the references of its parts, one after another."""

import pytest
import torch
from torch import Tensor

from silverray.kernels import centroids, probes, programs, refine, scan_reference, survivors
from silverray.kernels.codes import quantize_rows
from silverray.kernels.cpu import retrieve as cpu_retrieve
from silverray.kernels.retrieve import Arguments, retrieve

from .cases import THREADS, Lists, assert_same, make_lists, threads
from .test_probes import make as demands


def arguments_of(lists: Lists, seed: int, keep: int = 40, k: int = 10, share: float = 0.3) -> Arguments:
    """Random demands; a share of the queries are survivors."""
    _, sizes, *_, least, visit, passing = demands(lists, seed)
    few = torch.rand(len(lists.queries), generator=torch.Generator().manual_seed(seed)) < share
    return Arguments(
        lists.codes, lists.scales, lists.vectors, lists.keys, lists.offsets, sizes, lists.planes, lists.programs,
        lists.filters, lists.queries, lists.centroids, *quantize_rows(lists.centroids), few, least, visit, passing,
        len(lists.codes) if share else 0, keep, k, len(lists.codes),
    )  # fmt: skip


def expect(its: Arguments) -> tuple[Tensor, Tensor]:
    """By the references of the parts."""
    scores = centroids.reference(its.centroid_codes, its.centroid_scales, its.queries)
    filtered = its.planes, its.programs, its.filters
    chosen = probes.reference(scores, its.sizes, its.offsets, *filtered, its.least, its.visit, its.passing)
    bases = centroids.probed_scores(its.centroids, its.queries, chosen)
    lists = its.codes, its.scales, its.keys, its.offsets
    kept = scan_reference.scan(*lists, *filtered, its.queries, chosen, bases, its.keep)
    best = refine.reference(its.vectors, its.keys, its.queries, kept[1], its.k)
    bits = programs.reference(its.planes, its.programs)
    every = survivors.reference(its.vectors, its.keys, bits, its.filters, its.queries, its.k)
    few = its.survivors[:, None]
    return torch.where(few, every[0], best[0]), torch.where(few, every[1], best[1])


def check(its: Arguments) -> None:
    expected = expect(its)
    for number in THREADS:
        with threads(number):
            found = retrieve(its)
            assert_same(found[:2], expected)
            assert not found.overflow.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("n", "d", "clusters", "queries", "keep", "k"),
    [
        (1, 1, 1, 1, 1, 1),
        (64, 16, 2, 3, 5, 9),
        (513, 50, 17, 20, 40, 10),
        (4097, 128, 64, 65, 100, 25),
        (9001, 33, 300, 9, 50, 50),
        (700, 300, 20, 5, 700, 700),
        (20_011, 24, 3, 4, 30, 1),
    ],
)
def test_the_kernel_agrees_with_its_parts(
    n: int, d: int, clusters: int, queries: int, keep: int, k: int, dtype: torch.dtype
) -> None:
    for seed in (0, 1):
        for few in (0, 0.3, 1):
            check(arguments_of(make_lists(n, d, clusters, queries, seed=n + seed, dtype=dtype), seed, keep, k, few))


@pytest.mark.parametrize(("keep", "k"), [(1, 1), (60, 20), (3000, 100)])
def test_equal_scores_are_kept_and_ordered_by_key(keep: int, k: int) -> None:
    lists = make_lists(4000, 32, 30, 12, seed=keep)
    lists.codes[:], lists.scales[:], lists.centroids[:] = lists.codes[0].clone(), 0.5, 0.1
    lists.vectors[:] = lists.vectors[:5].repeat(800, 1)
    check(arguments_of(lists, 1, keep, k))


def test_a_batch_larger_than_the_buffers_is_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    its = arguments_of(make_lists(3000, 40, 12, 11, seed=5), 5, 100, 30)
    for buffer in (1, 2000, 5000):
        monkeypatch.setattr(cpu_retrieve, "MAX_BUFFER", buffer)
        monkeypatch.setattr(survivors, "MAX_WORDS", buffer // 50)
        check(its)


def test_no_queries_no_slots_and_nothing_to_keep() -> None:
    lists = make_lists(300, 16, 5, 6, seed=1)
    check(arguments_of(lists, 0, 0, 5))
    check(arguments_of(lists, 0, 5, 0))
    check(arguments_of(make_lists(0, 16, 5, 6), 0, 5, 5))
    none = arguments_of(lists, 0).of(torch.tensor([], dtype=torch.int64))
    assert retrieve(none).slots.shape == (0, 10)


def test_arguments_may_be_views_of_larger_tensors() -> None:
    its = arguments_of(make_lists(1100, 50, 9, 7, seed=2), 2, 40, 15)
    views = []
    for part in its:
        if isinstance(part, Tensor):
            wide = torch.zeros([2 * size + 3 for size in part.shape], dtype=part.dtype)
            part = wide[tuple(slice(1, 2 * size + 1, 2) for size in part.shape)].copy_(part)
        views.append(part)
    assert_same(retrieve(Arguments._make(views))[:2], expect(its))
