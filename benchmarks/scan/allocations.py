"""Counting the memory allocations of a call: PyTorch's tensors and Numba's arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from numba.core.runtime import _nrt_python, rtsys
from torch.autograd.profiler import profile


class Allocations(NamedTuple):
    """How often a call asked for memory.

    Attributes:
        torch: for tensors.
        numba: for arrays inside compiled functions, in all threads.
    """

    torch: int
    numba: int


def count_allocations(call: Callable[[], object]) -> Allocations:
    """Count what a call allocates, compiled and warmed up before.

    Args:
        call: is called three times.
    """
    call()
    _nrt_python.memsys_enable_stats()
    before = rtsys.get_allocation_stats().alloc
    call()
    arrays = rtsys.get_allocation_stats().alloc - before
    with profile(profile_memory=True) as seen:
        call()
    tensors = sum(event.self_cpu_memory_usage > 0 for event in seen.function_events or ())
    return Allocations(tensors, arrays)
