"""From Triton's launches to the PTX that it compiles for them, run on tensors in the host's memory.

Triton must have been imported without `TRITON_INTERPRET`, and finds no GPU: so this is for a process of its own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from .kernel import Kernel
from .machine import Grid, Launch
from .memory import Region


class NoGpu:
    """What Triton asks a driver for when it compiles."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_launches(compiled: Callable[..., None]) -> None:
    """From now on, kernels are compiled and not run.

    Args:
        compiled: called instead with the function, what was compiled, the grid and the arguments.
    """
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        compiled(self, run(self, *arguments, grid=grid, warmup=True, **options), grid, arguments)

    JITFunction.run = compile_only
    triton.runtime.driver.set_active(NoGpu())


def execute_launches(seed: int) -> set[str]:
    """From now on, what kernels are compiled to runs on this CPU; returns their names, filled as they run.

    Args:
        seed: of every order that a GPU does not promise.

    Raises:
        Fault: from a launch, when a program reads or writes outside of tensors, or programs race.
    """
    kernels: dict[str, Kernel] = {}
    random, names = Random(seed), set()

    def execute(function: Any, compiled: Any, grid: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
        if compiled.hash not in kernels:
            kernels[compiled.hash] = Kernel(compiled.asm["ptx"])
        kernel = kernels[compiled.hash]
        given = dict(zip(function.arg_names, arguments, strict=True))
        variable = [name for name, kind in compiled.src.signature.items() if kind != "constexpr"]
        # Parameters beyond those of the function are Triton's own scratch memory, which no kernel of ours has.
        numbers = [_number(given[name]) for name in variable] + [0] * (len(kernel.parameters) - len(variable))
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        bound = dict(zip(kernel.parameters, numbers, strict=True))
        Launch(kernel, Grid(*grid), bound, _regions(tensors), compiled.metadata.shared, random).run()
        names.add(function.__name__)

    compile_launches(execute)
    return names


def _number(value: Any) -> int:
    return value.data_ptr() if isinstance(value, Tensor) else int(value)


def _regions(tensors: dict[str, Tensor]) -> list[Region]:
    """The memory below some tensors, each named by the first that lies in it."""
    regions: dict[int, Region] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage()
        if storage.nbytes() and storage.data_ptr() not in regions:
            data = (ctypes.c_uint8 * storage.nbytes()).from_address(storage.data_ptr())
            regions[storage.data_ptr()] = Region(name, np.ctypeslib.as_array(data))
    return list(regions.values())
