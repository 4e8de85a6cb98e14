"""Watching processes that tests start."""

import time
from pathlib import Path


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


def gone(pids: set[int]) -> bool:
    deadline = time.monotonic() + 15
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
