"""Rows as the CPU kernels read them: each begins on a cache line. Letters: N rows, D elements, R planes, W words."""

from __future__ import annotations

import torch
from torch import Tensor

LINE = 64
"""Bytes of a cache line."""
LANES = 16
"""Elements of a chunk of a vector."""
WORDS = 8
"""64-bit words of a cache line."""


def aligned_rows(rows: Tensor) -> Tensor:
    """Lay rows out so that each begins on a cache line (half a line for bfloat16).

    Args:
        rows: `[N, D]`, any dtype.

    Returns:
        `rows` itself on another device than the CPU or where it is so already; else a view `[N, D]` of wider rows that
        are filled up with zeros.
    """
    step = LINE if rows.dtype != torch.bfloat16 else LANES * rows.element_size()
    if rows.device.type != "cpu" or _is_aligned(rows, step):
        return rows
    width = -(-rows.shape[1] * rows.element_size() // step) * step // rows.element_size()
    wide = rows.new_zeros(len(rows), width)
    wide[:, : rows.shape[1]] = rows
    return wide[:, : rows.shape[1]]


def aligned_planes(planes: Tensor) -> Tensor:
    """Fill planes `[R, W]` int64 up to a multiple of 8 words, so that each begins on a cache line.

    Returns:
        `planes` itself on another device than the CPU or where they are so already; else a copy.
    """
    if planes.device.type != "cpu" or (
        planes.shape[1] % WORDS == 0 and planes.is_contiguous() and planes.data_ptr() % LINE == 0
    ):
        return planes
    wide = planes.new_zeros(len(planes), -(-planes.shape[1] // WORDS) * WORDS)
    wide[:, : planes.shape[1]] = planes
    return wide


def _is_aligned(rows: Tensor, step: int) -> bool:
    size = rows.element_size()
    if rows.shape[1] > 1 and rows.stride(1) != 1:
        return False
    end = rows.storage_offset() + len(rows) * rows.stride(0)
    return (
        rows.stride(0) * size % step == 0
        and rows.stride(0) >= rows.shape[1]
        and rows.data_ptr() % step == 0
        and end * size <= rows.untyped_storage().nbytes()
    )
