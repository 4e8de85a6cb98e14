"""Refusing arguments of a wrong type or shape before a kernel reads memory by them."""

from __future__ import annotations

import torch
from torch import Tensor


def check(name: str, value: Tensor, dtype: torch.dtype, *shape: int | None) -> None:
    """Raise a `ValueError` unless `value` is of `dtype` and `shape`, where None stands for any size."""
    fits = value.dtype == dtype and len(shape) == value.dim()
    if not fits or any(want is not None and want != size for want, size in zip(shape, value.shape, strict=True)):
        wanted = ["any" if size is None else size for size in shape]
        raise ValueError(f"{name}: expected {wanted} {dtype}, got {list(value.shape)} {value.dtype}")
