"""The machine that a benchmark runs on: what it is, and how fast its memory is now."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from silverray.benchmarks.common.measure import interleave

Result = TypeVar("Result")

PACKAGES = ("silverray", "torch", "triton", "numba", "numpy", "pyarrow", "ray", "faiss-cpu", "hnswlib", "usearch")
FLAGS = ("avx2", "fma", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_vpopcntdq", "amx_int8", "asimddp")
THREADS = 2
"""Of the figures to reach, where a benchmark does not compare numbers of threads: every machine has two cores."""
ROUNDS = 7
"""The median is that of a quiet round even where three are disturbed."""


def describe() -> dict[str, Any]:
    """The processor, memory, system, and the versions of what takes part; what is not installed is None."""
    lines = (line.partition(":") for line in _read("/proc/cpuinfo").splitlines())
    fields = {name.strip(): value.strip() for name, _, value in lines}
    known = fields.get("flags", fields.get("Features", "")).split()
    return {
        "processor": fields.get("model name", platform.processor() or platform.machine()),
        "flags": [flag for flag in FLAGS if flag in known],
        "cores": os.cpu_count(),
        "caches": _caches(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def read_bandwidth(threads: int, size: int) -> float:
    """Bytes per second at which memory can be read now: a plain sum, by the fastest of several formulations.

    Args:
        threads: that read.
        size: bytes to read each time; well above the last cache's size, or the cache is what is measured.
    """
    return _fastest(readers(np.arange(size // 8), threads), size // 8 * 8)


def copy_bandwidth(threads: int, size: int) -> float:
    """Bytes per second, those read and those written together, at which memory can be copied now.

    Args:
        threads: that copy.
        size: bytes to copy each time; well above the last cache's size.
    """
    source = np.arange(size // 8)
    target = np.zeros_like(source)
    from_, to = torch.from_numpy(source), torch.from_numpy(target)
    contenders = {
        "torch": with_threads(lambda: to.copy_(from_), threads),
        "numba": with_threads(lambda: _copy(source, target, threads), threads),
    }
    return _fastest(contenders, 2 * source.nbytes)


def readers(data: NDArray[Any], threads: int) -> dict[str, Callable[[], object]]:
    """Sums over all bytes of an array, in several formulations; the fastest is what the memory can do.

    Args:
        data: C-contiguous, its size a multiple of 8 bytes.
        threads: that read.
    """
    words = data.reshape(-1).view(np.int64)
    integers, floats = torch.from_numpy(words), torch.from_numpy(words.view(np.float32))
    return {
        "torch int64": with_threads(lambda: integers.sum(), threads),
        "torch float32": with_threads(lambda: floats.sum(), threads),
        "numba": with_threads(lambda: _sum(words, threads), threads),
        "numba, 4 streams": with_threads(lambda: _sum_streams(words, threads), threads),
    }


def with_threads(call: Callable[[], Result], threads: int) -> Callable[[], Result]:
    """The same call with so many threads for torch and for Numba."""

    def run() -> Result:
        torch.set_num_threads(threads)
        numba.set_num_threads(threads)
        return call()

    return run


def _fastest(contenders: dict[str, Callable[[], object]], size: int) -> float:
    before = torch.get_num_threads(), numba.get_num_threads()
    timings = interleave(contenders, rounds=ROUNDS)
    torch.set_num_threads(before[0])
    numba.set_num_threads(before[1])
    return size / min(timing.p50_s for timing in timings.values())


@numba.njit(parallel=True, cache=True)  # type: ignore[untyped-decorator]
def _sum(words: NDArray[np.int64], threads: int) -> int:
    part = -(-len(words) // threads)
    total = 0
    for thread in numba.prange(threads):
        # A slice, so that the compiler sees no negative index and uses vector registers.
        mine = words[thread * part : (thread + 1) * part]
        own = 0
        for i in range(len(mine)):
            own += mine[i]
        total += own
    return total


@numba.njit(parallel=True, cache=True)  # type: ignore[untyped-decorator]
def _sum_streams(words: NDArray[np.int64], threads: int) -> int:
    """As `_sum`, each thread reading four places at once: one stream may not keep the memory busy."""
    part = -(-len(words) // threads)
    total = 0
    for thread in numba.prange(threads):
        mine = words[thread * part : (thread + 1) * part]
        quarter = len(mine) // 4
        first, second, third = mine[:quarter], mine[quarter : 2 * quarter], mine[2 * quarter : 3 * quarter]
        fourth, rest = mine[3 * quarter : 4 * quarter], mine[4 * quarter :]
        own = rest.sum()
        for i in range(quarter):
            own += first[i] + second[i] + third[i] + fourth[i]
        total += own
    return total


@numba.njit(parallel=True, cache=True)  # type: ignore[untyped-decorator]
def _copy(source: NDArray[np.int64], target: NDArray[np.int64], threads: int) -> None:
    part = -(-len(source) // threads)
    for thread in numba.prange(threads):
        target[thread * part : (thread + 1) * part] = source[thread * part : (thread + 1) * part]


def _caches() -> dict[str, str]:
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind = _read(str(folder / "type"))
        if kind != "Instruction":
            found[f"L{_read(str(folder / 'level'))}"] = _read(str(folder / "size"))
    return found


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of this checkout, with `+` where files differ from it; None outside a checkout."""
    folder = Path(__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, check=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
