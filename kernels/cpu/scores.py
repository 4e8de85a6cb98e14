"""Exact dot products of users and items of the item cache on a CPU, 16 candidates at a time.

Letters: B requests, T tasks, K candidates, N items, D dimensions.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import carray, prange
from torch import Tensor

from silverray.kernels.cpu.jit import kernel, parallel_kernel
from silverray.kernels.cpu.launch import padded_floats, use_threads, workspace
from silverray.kernels.cpu.refine import AHEAD, ask_for, cache_of, exact_dots
from silverray.kernels.cpu.simd import pointer
from silverray.kernels.rows import LANES, LINE, aligned_rows


def launch(users: Tensor, vectors: Tensor, slots: Tensor) -> Tensor:
    """Run the kernel; arguments and result are those of `silverray.kernels.scores.dot_products`."""
    batch, tasks = users.shape[:2]
    count = slots.shape[1]
    scores = torch.empty(batch, count, tasks)
    if not len(vectors):
        return scores.fill_(-torch.inf)
    if not scores.numel():
        return scores
    rows, wide, slots = aligned_rows(vectors), padded_floats(users.flatten(0, 1)), slots.contiguous()
    use_threads()
    places, sums = workspace(4 * batch * (count + LANES), LINE * batch)
    (_products_of_one if batch == 1 else _products_of_all)(
        cache_of(rows, slots), slots.data_ptr(), wide.data_ptr(), 4 * wide.shape[1], places, sums, batch, tasks, count,
        scores.data_ptr(),
    )  # fmt: skip
    return scores


@kernel
def _products_of_one(cache, slots, users, stride, places, sums, _batch, tasks, count, scores):
    _products_of_row(cache, slots, users, stride, places, sums, tasks, count, scores)


@parallel_kernel
def _products_of_all(cache, slots, users, stride, places, sums, batch, tasks, count, scores):
    for row in prange(batch):
        _products_of_row(
            cache, slots + 8 * count * row, users + stride * tasks * row, stride, places + 4 * (count + LANES) * row,
            sums + LINE * row, tasks, count, scores + 4 * count * tasks * row,
        )  # fmt: skip


@kernel
def _products_of_row(cache, slots, users, stride, places, sums, tasks, count, scores):
    """Score the candidates of one request for all its tasks; all but `cache` and the numbers are addresses."""
    given = carray(pointer(slots), (count,), np.int64)
    mine = carray(pointer(places), (count + LANES,), np.int32)
    lanes = carray(pointer(sums), (LANES,), np.float32)
    result = carray(pointer(scores), (count, tasks), np.float32)
    for place in range(count):
        mine[place] = max(given[place], 0)
    mine[count:] = mine[0]
    ask_for(cache.rows, cache.stride, places, 0, min(AHEAD, count))
    for start in range(0, count, LANES):
        ask_for(cache.rows, cache.stride, places, start + AHEAD, min(start + AHEAD + LANES, count))
        for task in range(tasks):
            exact_dots(
                cache.half, cache.rows, cache.stride, places + 4 * start, users + stride * task, cache.chunks, sums
            )  # fmt: skip
            for lane in range(min(LANES, count - start)):
                result[start + lane, task] = lanes[lane] if given[start + lane] >= 0 else -np.inf
