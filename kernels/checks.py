"""Refusing arguments of a wrong type or shape before a kernel reads memory by them."""

from __future__ import annotations

import torch
from torch import Tensor


def check(name: str, value: Tensor, dtype: torch.dtype, *shape: int | None) -> None:
    """Raise a `ValueError` unless `value` is of `dtype` and `shape`, where None stands for any size."""
    sizes = value.shape
    if value.dtype is dtype and len(sizes) == len(shape):
        # A plain loop: this is called for every argument of every batch.
        for want, size in zip(shape, sizes, strict=True):
            if want is not None and want != size:
                break
        else:
            return
    wanted = ["any" if size is None else size for size in shape]
    raise ValueError(f"{name}: expected {wanted} {dtype}, got {list(sizes)} {value.dtype}")
