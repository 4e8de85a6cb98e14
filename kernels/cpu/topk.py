"""Top-k on a CPU: a worker takes row after row. Letters: B rows, N candidates."""

from __future__ import annotations

import numpy as np
import torch
from numba import carray, prange
from torch import Tensor

from silverray.kernels.cpu.jit import kernel, parallel_kernel
from silverray.kernels.cpu.launch import use_threads, workspace
from silverray.kernels.cpu.refine import write_best
from silverray.kernels.cpu.selection import LOWEST
from silverray.kernels.cpu.simd import pointer, rank_scores
from silverray.kernels.rows import LANES


def launch(scores: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Run the kernel; arguments and result are those of `silverray.kernels.topk.top_k`, keys `[B, N]`."""
    scores = scores.contiguous()
    keys = keys if keys.stride(1) == 1 else keys.contiguous()
    count, columns = scores.shape
    use_threads()
    room = 4 * count * (columns + LANES)
    ranks, slots, spare = workspace(room, room, 16 * count * min(k, columns))
    best, places = torch.empty(count, k), torch.empty(count, k, dtype=torch.int64)
    (_best_of_one if count == 1 else _best_of_all)(
        scores.data_ptr(), keys.data_ptr(), 8 * keys.stride(0), count, columns, ranks, slots, spare, best.data_ptr(),
        places.data_ptr(), k,
    )  # fmt: skip
    return best, places


@kernel
def _best_of_one(scores, keys, _stride, _count, columns, ranks, slots, spare, best, places, k):
    _best_of_row(scores, keys, columns, ranks, slots, spare, best, places, k)


@parallel_kernel
def _best_of_all(scores, keys, stride, count, columns, ranks, slots, spare, best, places, k):
    width = 4 * (columns + LANES)
    for row in prange(count):
        _best_of_row(
            scores + 4 * columns * row, keys + stride * row, columns, ranks + width * row, slots + width * row,
            spare + 16 * min(k, columns) * row, best + 4 * k * row, places + 8 * k * row, k,
        )  # fmt: skip


@kernel
def _best_of_row(scores, keys, columns, ranks, slots, spare, best, places, k):
    """Select from one row; all but `columns` and `k` are addresses."""
    given = carray(pointer(scores), (columns,), np.float32)
    floats = carray(pointer(ranks), (columns + LANES,), np.float32)
    mine = carray(pointer(slots), (columns + LANES,), np.int32)
    count = 0
    for place in range(columns):
        floats[count], mine[count] = given[place], place
        count += given[place] > -np.inf
    for start in range(0, count, LANES):
        rank_scores(ranks + 4 * start, np.int32(LOWEST))
    write_best(ranks, slots, count, k, keys, spare, best, places)
