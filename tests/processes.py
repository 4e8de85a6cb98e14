"""Watching processes that tests start."""

import os
import time
from pathlib import Path

PATIENCE_S = 600.0
"""Longest that a test waits for a process: a net under what hangs, below pytest's own limit and not a measure."""


def descendants(pid: int) -> set[int]:
    """Processes below a process."""
    found: set[int] = set()
    todo = [pid]
    while todo:
        for task in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            try:
                children = {int(child) for child in task.read_text().split()}
            except OSError:
                continue
            todo += children - found
            found |= children
    return found


def named(name: str) -> set[int]:
    """Processes below this one that have a name in their command line."""
    return {pid for pid in descendants(os.getpid()) if name in _command_line(pid)}


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:  # it has ended
        return ""


def gone(pids: set[int]) -> bool:
    """Whether processes end, soon or late."""
    deadline = time.monotonic() + PATIENCE_S / 5
    while left := [pid for pid in pids if Path(f"/proc/{pid}").exists() and not is_zombie(pid)]:
        if time.monotonic() > deadline:
            return not left
        time.sleep(0.1)
    return True


def is_zombie(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
