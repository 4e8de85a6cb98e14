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

from .launches import launch_all
from .ptx.route import compile_launches


def usage(binary: bytes) -> dict[str, int]:
    """Registers, stack, shared and local memory of a kernel in bytes, by cuobjdump."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    function = text[text.index(" Function") :]
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", function)}


def most_carried(ttir: str) -> int:
    """Values that a loop of a kernel carries from turn to turn, in the loop that carries most."""
    return max((loop.count("=") for loop in re.findall(r"iter_args\((.*?)\) ->", ttir)), default=0)


def main() -> None:
    kernels: dict[str, Any] = {}
    compile_launches(lambda function, kernel, *_: kernels.update({f"{function.__name__} {kernel.hash[:8]}": kernel}))
    launch_all()
    needs = {
        name: {
            **usage(kernel.asm["cubin"]),
            "CARRIED": most_carried(kernel.asm["ttir"]),
            "FENCED": len(re.findall(r"\batom\S*\.(?:acquire|release|acq_rel)\b", kernel.asm["ptx"])),
        }
        for name, kernel in kernels.items()
    }
    json.dump(needs, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
