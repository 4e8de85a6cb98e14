"""Launching Triton kernels: what every launch has in common."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

EXACT: dict[str, Any] = {"enable_fp_fusion": False}
"""Compile so that every product and sum is rounded by itself, as the references do."""

PROGRAMS_PER_MULTIPROCESSOR = 8
"""Of `_scan`, whose registers let three be there at once on sm_90: the others take up their share of the tasks as
these end. A multiple of what fits would leave no tail; that is to be measured."""


@cache
def _multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def resident_programs(tensor: Tensor) -> int:
    """How many programs of a kernel that takes work from a list to start; few in Triton's interpreter, on a CPU."""
    return PROGRAMS_PER_MULTIPROCESSOR * _multiprocessors(tensor.device) if tensor.is_cuda else 3


def power_of_two(size: int, least: int = 1) -> int:
    """The least power of two that is no less than `size` and `least`."""
    return max(least, 1 << max(0, size - 1).bit_length())
