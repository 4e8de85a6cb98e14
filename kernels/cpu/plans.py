"""Planning on a CPU. Letters: Q queries, U programs, T threads."""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import carray
from torch import Tensor

from silverray.kernels.cpu.jit import kernel
from silverray.kernels.cpu.programs import launch_count
from silverray.kernels.cpu.simd import pointer


def launch(
    planes: Tensor, programs: Tensor, filters: Tensor, ks: Tensor, curve: Tensor, slots: int, items: int, few: int
) -> tuple[Tensor, Tensor]:
    """Run the kernels of `silverray.kernels.plans.plan_visits`."""
    totals = launch_count(planes, programs, slots)
    filters, ks, curve = filters.contiguous(), ks.contiguous(), curve.contiguous()
    count = filters.shape[0]
    survivors, least = torch.empty(count, dtype=torch.bool), torch.empty(2, count, dtype=torch.int64)
    plan_all(
        totals.data_ptr(), filters.data_ptr(), ks.data_ptr(), count, curve.data_ptr(), curve.shape[1], slots, items,
        few, survivors.data_ptr(), least.data_ptr(),
    )  # fmt: skip
    return survivors, least


@kernel
def plan_all(totals, filters, ks, count, curve, lines, slots, items, few, survivors, least):
    """Plan from the totals of programs; all but `count`, `lines`, `slots`, `items` and `few` are addresses."""
    programs, wanted = carray(pointer(filters), (count,), np.int64), carray(pointer(ks), (count,), np.int64)
    curves = carray(pointer(curve), (3, lines), np.float64)
    ends, starts, slopes = curves[0], curves[1], curves[2]
    found = carray(pointer(survivors), (count,), np.bool_)
    result = carray(pointer(least), (2, count), np.int64)
    for query in range(count):
        total, k = carray(pointer(totals + 8 * programs[query]), (1,), np.int64)[0], wanted[query]
        logs = math.log(max(np.float64(k * slots) / np.float64(max(total, 1)), 1.0))
        line = 0
        while ends[line] < logs:
            line += 1
        fraction = starts[line] + slopes[line] * logs
        found[query] = total <= few
        result[0, query] = np.int64(math.ceil(fraction * items))
        result[1, query] = min(max(np.int64(math.ceil(fraction * total)), k), total)
