"""Rows as the CPU kernels read them: each begins on a cache line. Letters: N rows, D elements, R planes, W words."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LINE = 64
"""Bytes of a cache line."""
LANES = 16
"""Elements of a chunk of a vector."""
WORDS = 8
"""64-bit words of a cache line."""


def row_bytes(width: int, dtype: torch.dtype) -> int:
    """Bytes from the beginning of a row of `empty_rows` to that of the next."""
    step = _step(dtype)
    return -(-width * dtype.itemsize // step) * step


def empty_rows(count: int, width: int, dtype: torch.dtype) -> Tensor:
    """Memory for rows that begin on cache lines (half a line for bfloat16), in large pages where the system has them.

    NumPy asks for large pages and PyTorch does not. A search reads lists at random places: with pages of 4 KiB
    it waits for the page tables as long as for the data.

    Returns:
        `[count, width]`, a view of wider rows; what is in them is undefined, between them are zeros.
    """
    stride = row_bytes(width, dtype)
    memory = np.empty(count * stride + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    rows = torch.from_numpy(memory[start : start + count * stride]).view(dtype).view(count, stride // dtype.itemsize)
    rows[:, width:] = 0
    return rows[:, :width]


def aligned_rows(rows: Tensor) -> Tensor:
    """Lay rows out so that each begins on a cache line (half a line for bfloat16).

    Args:
        rows: `[N, D]`, any dtype.

    Returns:
        `rows` itself on another device than the CPU or where it is so already; else a view `[N, D]` of wider rows that
        are filled up with zeros.
    """
    if rows.device.type != "cpu" or _is_aligned(rows, _step(rows.dtype)):
        return rows
    return empty_rows(len(rows), rows.shape[1], rows.dtype).copy_(rows)


def aligned_planes(planes: Tensor) -> Tensor:
    """Fill planes `[R, W]` int64 up to a multiple of 8 words, so that each begins on a cache line.

    Returns:
        `planes` itself on another device than the CPU or where they are so already; else a copy.
    """
    if planes.device.type != "cpu" or (
        planes.shape[1] % WORDS == 0 and planes.is_contiguous() and planes.data_ptr() % LINE == 0
    ):
        return planes
    wide = empty_rows(len(planes), -(-planes.shape[1] // WORDS) * WORDS, planes.dtype)
    wide[:, planes.shape[1] :] = 0
    wide[:, : planes.shape[1]] = planes
    return wide


def _step(dtype: torch.dtype) -> int:
    return LINE if dtype != torch.bfloat16 else LANES * dtype.itemsize


def _is_aligned(rows: Tensor, step: int) -> bool:
    size, (count, width) = rows.element_size(), rows.shape
    stride = rows.stride(0)
    if stride * size % step or rows.data_ptr() % step or stride < width or (width > 1 and rows.stride(1) != 1):
        return False
    # What is read behind the last row must be memory of its own.
    return stride == width or (rows.storage_offset() + count * stride) * size <= rows.untyped_storage().nbytes()
