"""Quantising queries on a CPU."""

from __future__ import annotations

import numpy as np
from numba import carray

from silverray.kernels.cpu.jit import kernel
from silverray.kernels.cpu.simd import pointer


@kernel
def quantize(queries, count, width, codes, stride, scales, sums):
    """Quantise queries as `silverray.kernels.codes.quantize_rows` does; arguments are addresses and sizes."""
    rows = carray(pointer(queries), (count, width), np.float32)
    values = carray(pointer(codes), (count, stride), np.int8)
    for query in range(count):
        largest = np.float32(0)
        for place in range(width):
            largest = max(largest, abs(rows[query, place]))
        scale = largest / np.float32(127)
        inverse = np.float32(1) / scale if scale > 0 else np.float32(0)
        if not np.isfinite(inverse):
            inverse = np.float32(0)
        total = np.int64(0)
        values[query, width:] = 0
        for place in range(width):
            value = min(max(np.rint(rows[query, place] * inverse), np.float32(-127)), np.float32(127))
            values[query, place] = np.int8(value)
            total += np.int64(value)
        carray(pointer(scales), (count,), np.float32)[query] = scale
        carray(pointer(sums), (count,), np.int64)[query] = total
