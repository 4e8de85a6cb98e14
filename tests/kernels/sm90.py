"""Compile every Triton kernel for sm_90 without a GPU, as the launchers ask for it, and print what each needs.

A process of its own: `python -m tests.kernels.sm90`. Tensors are on the CPU; nothing is launched.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from .launches import launch_all


class _NoGpu:
    """What Triton asks a driver for when it compiles."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_launches() -> dict[str, bytes]:
    """From now on kernels are compiled and not run; returns the machine code of each, filled as they are."""
    binaries: dict[str, bytes] = {}
    run = JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        binaries[f"{self.__name__} {kernel.hash[:8]}"] = kernel.asm["cubin"]

    JITFunction.run = compile_only
    triton.runtime.driver.set_active(_NoGpu())
    return binaries


def usage(binary: bytes) -> dict[str, int]:
    """Registers, stack, shared and local memory of a kernel in bytes, by cuobjdump."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    function = text[text.index(" Function") :]
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", function)}


def main() -> None:
    binaries = compile_launches()
    launch_all()
    json.dump({name: usage(binary) for name, binary in binaries.items()}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
