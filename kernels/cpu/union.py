"""The union of lists on a CPU, by a table of hashes for each request. The letters are those of `union`."""

from __future__ import annotations

import numpy as np
import torch
from numba import carray, prange
from torch import Tensor

from silverray.kernels.cpu.jit import kernel, parallel_kernel
from silverray.kernels.cpu.launch import use_threads, workspace
from silverray.kernels.cpu.simd import pointer

_MIX = np.uint64(0x9E3779B97F4A7C15)  # 2^64 divided by the golden ratio: the products' high bits are spread evenly


def launch(slots: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Run the kernel; arguments and result are those of `silverray.kernels.union.unite`."""
    batch, tasks, kept = slots.shape
    slots, scores = slots.contiguous(), scores.contiguous()
    items = torch.empty(batch, tasks * kept, dtype=torch.int64)
    found = torch.empty(batch, tasks * kept, tasks)
    if not items.numel():
        return items, found
    bits = (2 * tasks * kept - 1).bit_length()  # at least half of a table stays empty
    use_threads()
    (tables,) = workspace(4 * batch << bits)
    (_unite_one if batch == 1 else _unite_all)(
        slots.data_ptr(), scores.data_ptr(), batch, tasks, kept, tables, bits, items.data_ptr(), found.data_ptr()
    )
    return items, found


@kernel
def _unite_one(slots, scores, _batch, tasks, kept, tables, bits, items, found):
    _unite_row(slots, scores, tasks, kept, tables, bits, items, found)


@parallel_kernel
def _unite_all(slots, scores, batch, tasks, kept, tables, bits, items, found):
    width = tasks * kept
    for row in prange(batch):
        _unite_row(
            slots + 8 * width * row, scores + 4 * width * row, tasks, kept, tables + (4 * row << bits), bits,
            items + 8 * width * row, found + 4 * width * tasks * row,
        )  # fmt: skip


@kernel
def _unite_row(slots, scores, tasks, kept, tables, bits, items, found):
    """Unite the lists of one request; its table has 1 + the place of an item, by slot, and 0 where there is none."""
    width, mask, shift = tasks * kept, (1 << bits) - 1, np.uint64(64 - bits)
    given = carray(pointer(slots), (tasks, kept), np.int64)
    given_scores = carray(pointer(scores), (tasks, kept), np.float32)
    table = carray(pointer(tables), (1 << bits,), np.int32)
    mine, scored = carray(pointer(items), (width,), np.int64), carray(pointer(found), (width, tasks), np.float32)
    table[:], scored[:] = 0, -np.inf
    count = 0
    for task in range(tasks):
        for place in range(kept):
            slot = given[task, place]
            if slot < 0:
                continue
            at = np.int64((np.uint64(slot) * _MIX) >> shift)
            while table[at] and mine[table[at] - 1] != slot:
                at = (at + 1) & mask
            if not table[at]:
                mine[count] = slot
                count += 1
                table[at] = count
            scored[table[at] - 1, task] = given_scores[task, place]
    mine[count:] = -1
