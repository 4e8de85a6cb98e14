"""Refining: the kernel against the reference, in order."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from silverray.kernels.refine import reference, refine
from silverray.kernels.rows import aligned_rows

from .cases import THREADS, assert_same, threads

CACHES = [torch.float32, torch.bfloat16]


class Arguments(NamedTuple):
    """Those of `refine` up to `k`."""

    vectors: Tensor
    keys: Tensor
    queries: Tensor
    candidates: Tensor


def make(n: int, d: int, queries: int, columns: int, dtype: torch.dtype = torch.float32) -> Arguments:
    """Vectors (half of them twice), keys, queries, and candidates of which a fifth is none."""
    g = torch.Generator().manual_seed(n + d)
    vectors = torch.randn(n, d, generator=g).to(dtype)
    vectors[n // 2 :] = vectors[: n - n // 2].clone()
    keys = torch.randperm(n, generator=g) * ((1 << 62) // n)
    candidates = torch.stack([torch.randperm(n, generator=g)[:columns] for _ in range(queries)])
    candidates[torch.rand(candidates.shape, generator=g) < 0.2] = -1
    return Arguments(vectors, keys, torch.randn(queries, d, generator=g), candidates)


def check(arguments: tuple[Tensor, Tensor, Tensor, Tensor], k: int) -> None:
    expected = reference(*arguments, k)
    for number in THREADS:
        with threads(number):
            assert_same(refine(*arguments, k), expected)


@pytest.mark.parametrize("dtype", CACHES)
@pytest.mark.parametrize(
    ("n", "d", "queries", "columns", "k"),
    [
        (1, 1, 2, 1, 1),
        (50, 8, 4, 50, 50),
        (100, 16, 3, 15, 20),
        (100, 17, 3, 16, 1),
        (100, 33, 3, 17, 16),
        (300, 300, 3, 200, 100),
        (1000, 50, 5, 100, 10),
        (1000, 128, 70, 63, 64),
        (600, 1000, 3, 513, 513),
        (5000, 96, 2, 4097, 300),
    ],
)
def test_the_kernel_agrees_with_the_reference(
    n: int, d: int, queries: int, columns: int, k: int, dtype: torch.dtype
) -> None:
    arguments = make(n, d, queries, columns, dtype)
    check(arguments, k)
    check((aligned_rows(arguments[0]), *arguments[1:]), k)


def test_vectors_of_4096_dimensions_are_scored_and_longer_ones_refused() -> None:
    check(make(40, 4095, 2, 30), 10)
    check(make(40, 4096, 2, 30), 10)
    with pytest.raises(ValueError, match="queries: expected"):
        refine(*make(40, 4097, 2, 30), 10)


def test_equal_scores_are_ordered_by_key() -> None:
    vectors, keys, queries, _ = make(700, 64, 3, 1)
    vectors[:] = vectors[0].clone()
    candidates = torch.stack([torch.randperm(700, generator=torch.Generator().manual_seed(q)) for q in range(3)])
    for k in (1, 10, 699, 700, 701):
        check((vectors, keys, queries, candidates), k)
    assert keys[refine(vectors, keys, queries, candidates, 700).places].diff(dim=1).min() > 0


@pytest.mark.parametrize("dtype", CACHES)
def test_a_zero_and_a_negative_zero_are_equal_scores(dtype: torch.dtype) -> None:
    vectors, keys, queries, candidates = make(200, 16, 3, 150, dtype)
    vectors[::3] = -vectors[::3].abs()
    check((vectors, keys, torch.zeros_like(queries), candidates), 12)


def test_a_score_that_overflows_to_minus_infinity_is_no_candidate() -> None:
    vectors, keys, queries, candidates = make(60, 16, 2, 40)
    vectors, queries = vectors.abs() * 1e25, -queries.abs() * 1e25
    vectors[::4] *= -1e-20
    assert (reference(vectors, keys, queries, candidates, 30)[1] >= 0).sum(1).max() < 20
    check((vectors, keys, queries, candidates), 30)


def test_candidates_that_are_all_none_or_not_there_at_all() -> None:
    vectors, keys, queries, candidates = make(90, 20, 3, 10)
    check((vectors, keys, queries, torch.full_like(candidates, -1)), 4)
    check((vectors, keys, queries, candidates[:, :0]), 4)
    check((vectors, keys, queries, candidates), 0)
    check((vectors, keys, queries[:0], candidates[:0]), 4)
    check((vectors[:0], keys[:0], queries, torch.full_like(candidates, -1)), 4)


def test_arguments_may_be_views_of_larger_tensors() -> None:
    for dtype in CACHES:
        arguments = make(400, 50, 4, 60, dtype)
        expected = reference(*arguments, 25)
        views = []
        for part in arguments:
            wide = torch.full([2 * size + 3 for size in part.shape], 5, dtype=part.dtype)
            views.append(wide[tuple(slice(1, 2 * size + 1, 2) for size in part.shape)].copy_(part))
        assert_same(refine(*Arguments._make(views), 25), expected)
