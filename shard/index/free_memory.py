"""Free memory of a device, as the system reports it."""

from __future__ import annotations

from pathlib import Path

import torch

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int:
    """Bytes that this process can still take on a CUDA device, or in host memory where the device is the CPU."""
    if device.type == "cpu":
        return free_host_bytes(PROC, CGROUPS)
    free, _ = torch.cuda.mem_get_info(device)
    return free


def free_host_bytes(proc: Path, cgroups: Path) -> int:
    """Bytes of host memory that this process can still take.

    Args:
        proc: where procfs is mounted.
        cgroups: where cgroups (version 2) are mounted, if they are.

    Returns:
        The least of what the kernel holds available and what the limits of the process's cgroup and of those around
        it leave. Cached files count as free, since the kernel drops them first.
    """
    folder = cgroups / _own_cgroup(proc / "self/cgroup")
    around = [one for one in (folder, *folder.parents) if one.is_relative_to(cgroups)]
    limits = [_left_in(one) for one in around if _is_limited(one / "memory.max")]
    return min([_numbers(proc / "meminfo")["MemAvailable:"] << 10, *limits])


def _own_cgroup(file: Path) -> str:
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")


def _is_limited(file: Path) -> bool:
    return file.exists() and file.read_text().strip() != "max"


def _left_in(folder: Path) -> int:
    cached = _numbers(folder / "memory.stat")
    used = int((folder / "memory.current").read_text()) - cached["active_file"] - cached["inactive_file"]
    return max(0, int((folder / "memory.max").read_text()) - used)


def _numbers(file: Path) -> dict[str, int]:
    """The first number of each line, by the word before it."""
    return {words[0]: int(words[1]) for line in file.read_text().splitlines() if len(words := line.split()) > 1}
