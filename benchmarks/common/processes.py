"""The processes that serve: their CPU time by what they are, and Ray's actors, and this one's memory; Linux only."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from pathlib import Path

_REPLICA = "ray::ServeReplica:"
_LOG = "ray::LogWriter"
_RAY = ("raylet", "gcs_server")


def cpu_seconds() -> dict[str, float]:
    """CPU seconds so far by Serve application, `haproxy`, `log`, and `ray` for the rest of Ray's processes."""
    tick = os.sysconf("SC_CLK_TCK")
    spent: defaultdict[str, float] = defaultdict(float)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            figures = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if name := _name(command):
            spent[name] += (int(figures[11]) + int(figures[12])) / tick  # in user and in system mode
    return dict(spent)


def resident_bytes(line: str = "VmRSS") -> float:
    """A figure of this process's memory, `VmRSS` now or `VmHWM` at its peak; NaN where the system does not tell."""
    if sys.platform != "linux":
        return float("nan")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(text.split()[1]) for text in lines if text.startswith(line)) * 1024


def own_actors(kind: str) -> list[int]:
    """Processes of the actors of a class on the Ray cluster that this process has started."""
    found, todo = [], [os.getpid()]
    while todo:
        pid = todo.pop()
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            todo += [int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in _children(task)]
        except OSError:  # it has ended
            continue
        if command.startswith(f"ray::{kind}"):
            found.append(pid)
    return found


def _children(task: Path) -> list[str]:
    return (task / "children").read_text().split()


def _name(command: str) -> str | None:
    program = command.partition(" ")[0]
    if command.startswith(_REPLICA):
        return command.removeprefix(_REPLICA).partition(":")[0]
    if "haproxy" in program:
        return "haproxy"
    if command.startswith(_LOG):
        return "log"
    return "ray" if command.startswith("ray::") or program.endswith(_RAY) else None
