"""The vector instructions one by one against NumPy; `test_cpus.py` runs this file for other CPUs too."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numba import njit

from silverray.kernels.cpu import simd
from silverray.kernels.rows import aligned_rows
from silverray.kernels.scores import halving_sum


@njit
def dot_rows(codes, stride, slots, query, chunks, out):  # type: ignore[no-untyped-def]
    simd.dot_rows(codes, stride, slots, query, chunks, out)


@njit
def dot_run(codes, query, chunks, out):  # type: ignore[no-untyped-def]
    simd.dot_run(codes, query, chunks, out)


@njit
def halving_rows_float(vectors, stride, slots, query, chunks, out):  # type: ignore[no-untyped-def]
    simd.halving_rows_float(vectors, stride, slots, query, chunks, out)


@njit
def halving_rows_bfloat(vectors, stride, slots, query, chunks, out):  # type: ignore[no-untyped-def]
    simd.halving_rows_bfloat(vectors, stride, slots, query, chunks, out)


@njit
def coarse_scores(sums, bias, scales, bases, scale):  # type: ignore[no-untyped-def]
    simd.coarse_scores(sums, bias, scales, bases, scale)


@njit
def rank_scores(scores, threshold):  # type: ignore[no-untyped-def]
    return simd.rank_scores(scores, threshold)


@njit
def lanes_reaching(ranks, threshold):  # type: ignore[no-untyped-def]
    return simd.lanes_reaching(ranks, threshold)


@njit
def append_lanes(source, lanes, target):  # type: ignore[no-untyped-def]
    simd.append_lanes(source, lanes, target)


@njit
def bits_of(word):  # type: ignore[no-untyped-def]
    return simd.count_bits(word), simd.first_bit(word)


@njit
def words_of(target, source):  # type: ignore[no-untyped-def]
    """Five lines of 8 words: each operation on a line of its own."""
    simd.copy_words(target, source)
    simd.and_words(target + 64, source)
    simd.or_words(target + 128, source)
    simd.and_not_words(target + 192, source)
    simd.not_words(target + 256, source)


@pytest.mark.parametrize("d", [1, 16, 63, 64, 65, 128, 300, 1000])
def test_dot_rows_sums_products_of_bytes(d: int) -> None:
    g = torch.Generator().manual_seed(d)
    codes = torch.randint(-127, 128, (40, d), generator=g, dtype=torch.int8)
    codes[0], codes[1], codes[2] = 127, -127, -128
    slots = torch.tensor([0, 1, 2, *torch.randint(0, 40, (13,), generator=g).tolist()], dtype=torch.int32)
    for query in (torch.full((1, d), 127), torch.full((1, d), -127), torch.randint(-127, 128, (1, d), generator=g)):
        rows, factors, out = aligned_rows(codes), aligned_rows(query.to(torch.int8)), torch.zeros(16, dtype=torch.int32)
        chunks = -(-d // 64)
        dot_rows(rows.data_ptr(), rows.stride(0), slots.data_ptr(), factors.data_ptr(), chunks, out.data_ptr())
        expected = codes[slots.long()].long() @ query[0].long()
        assert (out - simd.code_bias() * query.sum()).tolist() == expected.tolist()


@pytest.mark.parametrize("chunks", simd.RUN_CHUNKS)
def test_dot_run_sums_products_of_rows_that_follow_each_other(chunks: int) -> None:
    g = torch.Generator().manual_seed(chunks)
    codes = aligned_rows(torch.randint(-128, 128, (16, 64 * chunks), generator=g, dtype=torch.int8))
    query = aligned_rows(torch.randint(-127, 128, (1, 64 * chunks), generator=g, dtype=torch.int8))
    out = torch.zeros(16, dtype=torch.int32)
    dot_run(codes.data_ptr(), query.data_ptr(), chunks, out.data_ptr())
    sums = out - simd.code_bias() * query.long().sum()
    assert sums.tolist() == (codes.long() @ query[0].long()).tolist()


@pytest.mark.parametrize(
    ("dtype", "kernel"), [(torch.float32, halving_rows_float), (torch.bfloat16, halving_rows_bfloat)]
)
def test_halving_rows_sums_in_the_fixed_order(dtype: torch.dtype, kernel: Callable[..., None]) -> None:
    for d in (1, 8, 16, 17, 50, 64, 96, 128, 300, 1000, 4096):
        g = torch.Generator().manual_seed(d)
        vectors = torch.randn(40, d, generator=g).to(dtype)
        query = torch.zeros(1, max(16, 1 << (d - 1).bit_length()))
        query[0, :d] = torch.randn(d, generator=g)
        slots = torch.randint(0, 40, (16,), generator=g, dtype=torch.int32)
        rows, factors, out = aligned_rows(vectors), aligned_rows(query), torch.zeros(16)
        stride = rows.stride(0) * rows.element_size()
        kernel(rows.data_ptr(), stride, slots.data_ptr(), factors.data_ptr(), -(-d // 16), out.data_ptr())
        assert out.tolist() == halving_sum(vectors[slots.long()].float() * query[0, :d]).tolist()


def test_coarse_scores_rounds_every_step() -> None:
    rng = np.random.default_rng(0)
    dots = rng.integers(-(1 << 24), 1 << 24, 16).astype(np.int32)
    scales, bases = rng.random((2, 16)).astype(np.float32)
    scale, sums = np.float32(0.0123), dots + np.int32(777)
    coarse_scores(sums.ctypes.data, np.int32(777), scales.ctypes.data, bases.ctypes.data, scale)
    expected = bases + (scale * scales) * dots.astype(np.float32)
    np.testing.assert_array_equal(sums.view(np.float32), expected)


def test_rank_scores_orders_floats_as_integers_and_says_which_reach_the_threshold() -> None:
    floats = [-np.inf, -3e38, -2.0, -1e-45, 0.0, 1e-45, 1e-38, 1.0, 1.5, 2.0, 1e10, 3e38, np.inf, -1.0, -1.0, 7.0]
    scores = np.array(floats, dtype=np.float32)
    ranks = scores.copy().view(np.int32)
    rank_scores(ranks.ctypes.data, np.int32(0))
    np.testing.assert_array_equal(np.argsort(ranks, kind="stable"), np.argsort(scores, kind="stable"))
    for threshold in (-(1 << 31), *ranks.tolist(), (1 << 31) - 1):
        again = scores.copy().view(np.int32)
        lanes = rank_scores(again.ctypes.data, np.int32(threshold))
        np.testing.assert_array_equal(again, ranks)
        assert lanes == sum(int(rank >= threshold) << lane for lane, rank in enumerate(ranks.tolist()))


def test_lanes_reaching_compares_with_the_threshold() -> None:
    ranks = np.random.default_rng(0).integers(-9, 9, 17).astype(np.int32)
    for threshold in (-10, -3, 0, 9, 10):
        found = lanes_reaching(ranks[1:].ctypes.data, np.int32(threshold))
        assert found == sum(1 << lane for lane in range(16) if ranks[1 + lane] >= threshold)


def test_append_lanes_packs_the_chosen() -> None:
    source = np.arange(100, 116, dtype=np.int32)
    for lanes in (0, 1, 1 << 15, 0xFFFF, 0xAAAA, 0x5555, *np.random.default_rng(0).integers(0, 1 << 16, 50).tolist()):
        target = np.full(18, -7, np.int32)
        append_lanes(source.ctypes.data, lanes, target[1:].ctypes.data)
        chosen = [100 + lane for lane in range(16) if lanes >> lane & 1]
        assert target[1 : len(chosen) + 1].tolist() == chosen
        assert target[0] == target[17] == -7


def test_words_are_combined_and_their_bits_counted() -> None:
    rows = aligned_rows(torch.randint(-(1 << 62), 1 << 62, (6, 8), generator=torch.Generator().manual_seed(0)))
    source, before = rows[5].clone(), rows.clone()
    words_of(rows.data_ptr(), rows[5].data_ptr())
    wanted = [source, before[1] & source, before[2] | source, before[3] & ~source, ~source, source]
    assert torch.equal(rows, torch.stack(wanted))
    for word in (1, -1, 1 << 62, -(1 << 63), 0x5550, *source.tolist()):
        unsigned = word & (1 << 64) - 1
        assert bits_of(word) == (unsigned.bit_count(), (unsigned & -unsigned).bit_length() - 1)
