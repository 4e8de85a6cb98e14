"""Exact dot products of users and candidates on a CPU, 16 candidates at a time.

Letters: B requests, T tasks, K candidates, D dimensions.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import carray, prange
from torch import Tensor

from silverray.kernels.jit import kernel, parallel_kernel
from silverray.kernels.launch import padded_floats, use_threads, workspace
from silverray.kernels.rows import LANES, LINE, aligned_rows
from silverray.kernels.simd import halving_rows_float, pointer


def launch(users: Tensor, items: Tensor) -> Tensor:
    """Run the kernel; arguments and result are those of `silverray.kernels.scores.dot_products`."""
    batch, tasks, width = users.shape
    count = items.shape[1]
    scores = torch.empty(batch, count, tasks)
    if not scores.numel() or not width:
        return scores.zero_()
    # Contiguous first: what stands beside a part of wider rows is not zeros, as rows are filled up with.
    rows, wide = aligned_rows(items.contiguous().view(-1, width)), padded_floats(users.reshape(-1, width))
    use_threads()
    slots, sums = workspace(4 * (count + LANES), LINE * batch)
    _write_places(slots, count)
    (_products_of_one if batch == 1 else _products_of_all)(
        rows.data_ptr(), 4 * rows.stride(0), -(-width // LANES), wide.data_ptr(), 4 * wide.shape[1], slots, sums, batch,
        tasks, count, scores.data_ptr(),
    )  # fmt: skip
    return scores


@kernel
def _write_places(slots, count):
    """Write the places of a request's candidates, the last again and again at the end."""
    places = carray(pointer(slots), (count + LANES,), np.int32)
    for place in range(count + LANES):
        places[place] = min(place, count - 1)


@kernel
def _products_of_one(rows, stride, chunks, users, user_stride, slots, sums, _batch, tasks, count, scores):
    _products_of_row(rows, stride, chunks, users, user_stride, slots, sums, tasks, count, scores)


@parallel_kernel
def _products_of_all(rows, stride, chunks, users, user_stride, slots, sums, batch, tasks, count, scores):
    for row in prange(batch):
        _products_of_row(
            rows + stride * count * row, stride, chunks, users + user_stride * tasks * row, user_stride, slots,
            sums + LINE * row, tasks, count, scores + 4 * count * tasks * row,
        )  # fmt: skip


@kernel
def _products_of_row(rows, stride, chunks, users, user_stride, slots, sums, tasks, count, scores):
    """Score the candidates of one request for all its tasks; all but the numbers are addresses."""
    lanes = carray(pointer(sums), (LANES,), np.float32)
    result = carray(pointer(scores), (count, tasks), np.float32)
    for start in range(0, count, LANES):
        for task in range(tasks):
            halving_rows_float(rows, stride, slots + 4 * start, users + user_stride * task, chunks, sums)
            for lane in range(min(LANES, count - start)):
                result[start + lane, task] = lanes[lane]
