"""Refining on a CPU: a worker takes query after query and scores its candidates 16 at a time.

Letters: N items, Q queries, D dimensions, K candidates of a query.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import carray, prange
from torch import Tensor

from silverray.kernels.cpu.jit import kernel, parallel_kernel
from silverray.kernels.cpu.launch import padded_floats, use_threads, workspace
from silverray.kernels.cpu.selection import LOWEST, flip, keep_best, sort_best
from silverray.kernels.cpu.simd import (
    append_lanes,
    halving_rows_bfloat,
    halving_rows_float,
    load_int32,
    pointer,
    prefetch,
    rank_scores,
)
from silverray.kernels.rows import LANES, LINE, aligned_rows

AHEAD = 32
"""Candidates that are asked for from memory before they are scored."""
LINES_AHEAD = 8
"""Cache lines of each that are asked for; the processor fetches on by itself."""


class Cache(NamedTuple):
    """The item cache: addresses and sizes.

    Attributes:
        half: 1 for bfloat16, 0 for float32.
        rows: address of `[N]` rows, each a multiple of 64 bytes (32 for bfloat16).
        stride: bytes from row to row.
        chunks: 16-lane chunks of a row.
        items: N.
        keys: address of `[N]` int64.
    """

    half: int
    rows: int
    stride: int
    chunks: int
    items: int
    keys: int


def cache_of(vectors: Tensor, keys: Tensor) -> Cache:
    """`Cache` of vectors as `aligned_rows` makes them; the tensors must outlive it."""
    size = vectors.element_size()
    chunks = -(-vectors.shape[1] // LANES)
    return Cache(int(size == 2), vectors.data_ptr(), vectors.stride(0) * size, chunks, len(vectors), keys.data_ptr())


def launch(vectors: Tensor, keys: Tensor, queries: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Run the kernel; arguments and result are those of `silverray.kernels.refine.refine`."""
    rows, wide = aligned_rows(vectors), padded_floats(queries)
    keys, candidates = keys.contiguous(), candidates.contiguous()
    count, columns = candidates.shape
    use_threads()
    places = 4 * count * (columns + LANES)
    ranks, slots, spare, sums = workspace(places, places, 16 * count * min(k, columns), LINE * count)
    scores, best = torch.empty(count, k, dtype=torch.float32), torch.empty(count, k, dtype=torch.int64)
    _refine(
        cache_of(rows, keys), wide.data_ptr(), 4 * wide.shape[1], candidates.data_ptr(), count, columns, ranks, slots,
        spare, sums, scores.data_ptr(), best.data_ptr(), k,
    )  # fmt: skip
    return scores, best


@parallel_kernel
def _refine(cache, queries, stride, candidates, count, columns, ranks, slots, spare, sums, scores, places, k):
    width = columns + LANES
    for query in prange(count):
        _refine_query(
            cache, queries + stride * query, candidates + 8 * columns * query, columns, ranks + 4 * width * query,
            slots + 4 * width * query, spare + 16 * min(k, columns) * query, sums + LINE * query,
            scores + 4 * k * query, places + 8 * k * query, k,
        )  # fmt: skip


@kernel
def _refine_query(cache, query, candidates, columns, ranks, slots, spare, sums, scores, places, k):
    """Score one query's candidates and write the k best; all but `columns` and `k` are addresses."""
    given = carray(pointer(candidates), (columns,), np.int64)
    mine = carray(pointer(slots), (columns + LANES,), np.int32)
    count = 0
    for place in range(columns):
        mine[count] = given[place]
        count += given[place] >= 0
    rank_slots(cache, query, slots, count, ranks, sums)
    write_best(ranks, slots, count, k, cache.keys, spare, scores, places)


@kernel
def exact_dots(half, rows, stride, slots, query, chunks, sums):
    """Exact dot products of 16 slots: the code is long, so this is the one place that has it."""
    if half:
        halving_rows_bfloat(rows, stride, slots, query, chunks, sums)
    else:
        halving_rows_float(rows, stride, slots, query, chunks, sums)


@kernel
def ask_for(rows, stride, slots, start, end):
    """Ask memory for the rows of the slots (int32) from place `start` to `end`; `rows` and `slots` are addresses."""
    for place in range(start, end):
        row = rows + load_int32(slots + 4 * place) * stride
        for line in range(min(LINES_AHEAD, -(-stride // LINE))):
            prefetch(row + LINE * line)


@kernel
def rank_slots(cache, query, slots, count, ranks, sums):
    """Write the ranks of `count` slots (int32) by exact score; both have 15 places to spare. All are addresses."""
    mine = carray(pointer(slots), (count + LANES,), np.int32)
    mine[count:] = mine[0]
    ask_for(cache.rows, cache.stride, slots, 0, min(AHEAD, count))
    for start in range(0, count, LANES):
        ask_for(cache.rows, cache.stride, slots, start + AHEAD, min(start + AHEAD + LANES, count))
        exact_dots(cache.half, cache.rows, cache.stride, slots + 4 * start, query, cache.chunks, sums)
        rank_scores(sums, np.int32(LOWEST))
        append_lanes(sums, 0xFFFF, ranks + 4 * start)


@kernel
def write_best(ranks, slots, count, k, keys, spare, scores, places):
    """Write the k best of `count` candidates, filled up with -inf and -1.

    Arguments are those of `keep_best`; `scores` (float32) and `places` (int64) are addresses, and so is `spare`
    (16 bytes for each of the k to sort in; 0 leaves them unsorted).
    """
    count, _ = keep_best(ranks, slots, count, k, keys)
    best, mine = carray(pointer(ranks), (count,), np.int32), carray(pointer(slots), (count,), np.int32)
    if spare:
        sort_best(ranks, slots, count, keys, spare)
        while count and best[count - 1] == LOWEST:
            count -= 1
    bits, floats = carray(pointer(scores), (k,), np.int32), carray(pointer(scores), (k,), np.float32)
    result = carray(pointer(places), (k,), np.int64)
    for place in range(count):
        bits[place], result[place] = flip(best[place]), mine[place]
    floats[count:], result[count:] = -np.inf, -1
