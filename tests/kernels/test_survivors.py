"""Scoring survivors: the kernel against the reference, and the reference against a loop."""

import numpy as np
import pytest
import torch
from torch import Tensor

from silverray.kernels.cpu import survivors
from silverray.kernels.scores import exact_scores
from silverray.kernels.survivors import reference, score_survivors

from .cases import THREADS, assert_same, threads, unpack

Arguments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def make(
    n: int, d: int, queries: int, shares: tuple[float, ...], seed: int = 0, dtype: torch.dtype = torch.float32
) -> Arguments:
    """Arguments of `score_survivors` up to `k`; bits past the last slot are set at random too."""
    g = torch.Generator().manual_seed(seed)
    words = n // 64 + 2
    chosen = torch.rand(len(shares), words * 64, generator=g) < torch.tensor(shares)[:, None]
    bits = torch.from_numpy(np.packbits(chosen.numpy(), axis=1, bitorder="little").view(np.int64))
    return (
        torch.randn(n, d, generator=g).to(dtype),
        torch.randperm(n, generator=g) * 7,
        bits,
        torch.randint(0, len(shares), (queries,), generator=g),
        torch.randn(queries, d, generator=g),
    )


def check(arguments: Arguments, k: int) -> None:
    expected = reference(*arguments, k)
    for number in THREADS:
        with threads(number):
            assert_same(score_survivors(*arguments, k), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("n", "d", "queries", "shares", "k"),
    [
        (1, 1, 1, (1.0,), 1),
        (64, 16, 3, (1.0, 0.0), 70),
        (1000, 50, 20, (0.01, 0.3, 1.0), 10),
        (5003, 128, 33, (0.001, 0.1), 100),
        (700, 300, 2, (0.5,), 700),
    ],
)
def test_the_kernel_agrees_with_the_reference(
    n: int, d: int, queries: int, shares: tuple[float, ...], k: int, dtype: torch.dtype
) -> None:
    for seed in (0, 1):
        check(make(n, d, queries, shares, seed, dtype), k)


def test_equal_scores_are_ordered_by_key() -> None:
    vectors, keys, bits, filters, queries = make(3000, 24, 7, (0.5, 1.0))
    for k in (1, 50, 3000):
        check((vectors[:3].repeat(1000, 1), keys, bits, filters, queries), k)


def test_a_batch_larger_than_the_buffers_is_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    for buffer in (1, 2000):
        monkeypatch.setattr(survivors, "MAX_BUFFER", buffer)
        check(make(900, 20, 11, (0.2, 0.9, 0.0)), 40)


def test_no_slots_no_queries_no_filters_and_nothing_to_keep() -> None:
    check(make(0, 8, 3, (1.0,)), 4)
    check(make(300, 8, 3, (1.0,)), 0)
    vectors, keys, bits, filters, queries = make(300, 8, 3, (1.0,))
    assert score_survivors(vectors, keys, bits, filters[:0], queries[:0], 4).places.shape == (0, 4)
    assert score_survivors(vectors, keys, bits[:0], filters[:0], queries[:0], 4).places.shape == (0, 4)


def test_the_reference_agrees_with_a_loop_over_slots() -> None:
    vectors, keys, bits, filters, queries = make(200, 12, 5, (0.1, 0.6), seed=3)
    passing = unpack(bits, 200)
    scores, places = reference(vectors, keys, bits, filters, queries, 30)
    for query in range(5):
        slots = torch.from_numpy(np.flatnonzero(passing[filters[query]]))
        found = exact_scores(vectors, queries, torch.full_like(slots, query), slots).tolist()
        order = sorted(range(len(slots)), key=lambda place: (-found[place], int(keys[slots[place]])))[:30]
        assert places[query].tolist() == slots[order].tolist() + [-1] * (30 - len(order))
        assert scores[query, : len(order)].tolist() == [found[place] for place in order]


def test_queries_may_lie_in_memory_in_any_way() -> None:
    vectors, keys, bits, filters, queries = make(500, 16, 20, (0.5,))
    expected = reference(vectors, keys, bits, filters, queries, 9)
    # Of a width that needs no padding: column after column, and beginning in the middle of a cache line.
    columns = torch.empty(16 * 20 + 1)[1:].view(16, 20).T.copy_(queries)
    shifted = torch.empty(20 * 16 + 1)[1:].view(20, 16).copy_(queries)
    for rows in (columns, shifted):
        assert rows.data_ptr() % 64
        assert_same(score_survivors(vectors, keys, bits, filters, rows, 9), expected)
