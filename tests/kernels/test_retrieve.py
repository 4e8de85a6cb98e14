"""Retrieving in one call against the references of its three parts, one after another."""

import pytest
import torch
from torch import Tensor

from silverray.kernels import centroids, probes, refine, retrieve_numba, scan_reference
from silverray.kernels.codes import quantize_rows
from silverray.kernels.retrieve import retrieve

from .cases import THREADS, Lists, assert_same, make_lists, threads
from .test_probes import make as demands


def arguments_of(lists: Lists, seed: int) -> tuple[Tensor, ...]:
    """Arguments of `retrieve` up to `keep`."""
    _, sizes, *_, least, visit, passing = demands(lists, seed)
    return (
        lists.codes, lists.scales, lists.vectors, lists.keys, lists.offsets, sizes, lists.planes, lists.programs,
        lists.filters, lists.queries, lists.centroids, *quantize_rows(lists.centroids), least, visit, passing,
    )  # fmt: skip


def expect(arguments: tuple[Tensor, ...], keep: int, k: int) -> tuple[Tensor, Tensor]:
    codes, scales, vectors, keys, offsets, sizes, planes, programs, filters, queries, rows, *rest = arguments
    chosen = probes.reference(
        centroids.reference(*rest[:2], queries), sizes, offsets, planes, programs, filters, *rest[2:]
    )
    bases = centroids.probed_scores(rows, queries, chosen)
    kept = scan_reference.scan(codes, scales, keys, offsets, planes, programs, filters, queries, chosen, bases, keep)
    return refine.reference(vectors, keys, queries, kept[1], k)


def check(arguments: tuple[Tensor, ...], keep: int, k: int) -> None:
    expected = expect(arguments, keep, k)
    for number in THREADS:
        with threads(number):
            assert_same(retrieve(*arguments, keep, k), expected)


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
        check(arguments_of(make_lists(n, d, clusters, queries, seed=n + seed, dtype=dtype), seed), keep, k)


@pytest.mark.parametrize(("keep", "k"), [(1, 1), (60, 20), (3000, 100)])
def test_equal_scores_are_kept_and_ordered_by_key(keep: int, k: int) -> None:
    lists = make_lists(4000, 32, 30, 12, seed=keep)
    lists.codes[:], lists.scales[:], lists.centroids[:] = lists.codes[0].clone(), 0.5, 0.1
    lists.vectors[:] = lists.vectors[:5].repeat(800, 1)
    check(arguments_of(lists, 1), keep, k)


def test_a_batch_larger_than_the_buffers_is_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = arguments_of(make_lists(3000, 40, 12, 11, seed=5), 5)
    for buffer in (1, 2000, 5000):
        monkeypatch.setattr(retrieve_numba, "MAX_BUFFER", buffer)
        check(arguments, 100, 30)


def test_no_queries_no_slots_and_nothing_to_keep() -> None:
    lists = make_lists(300, 16, 5, 6, seed=1)
    check(arguments_of(lists, 0), 0, 5)
    check(arguments_of(lists, 0), 5, 0)
    check(arguments_of(make_lists(0, 16, 5, 6), 0), 5, 5)
    some = arguments_of(lists, 0)
    none = (*some[:8], *(part[:0] for part in some[8:10]), *some[10:13], *(part[:0] for part in some[13:]))
    assert retrieve(*none, 5, 5).places.shape == (0, 5)


def test_arguments_may_be_views_of_larger_tensors() -> None:
    arguments = arguments_of(make_lists(1100, 50, 9, 7, seed=2), 2)
    views = []
    for part in arguments:
        wide = torch.zeros([2 * size + 3 for size in part.shape], dtype=part.dtype)
        views.append(wide[tuple(slice(1, 2 * size + 1, 2) for size in part.shape)].copy_(part))
    assert_same(retrieve(*views, 40, 15), expect(arguments, 40, 15))
