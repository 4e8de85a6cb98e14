"""Ports of this test process: no other one on the machine, and no outgoing connection, takes them meanwhile."""

from __future__ import annotations

import fcntl
import socket
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TextIO

# Below what Linux gives to outgoing connections (from 32,768), above what Ray takes for workers (to 19,999).
FIRST, LAST, BLOCK = 20_000, 32_000, 100
_held: list[TextIO] = []


def take_port() -> int:
    """A free port that nobody is given again."""
    return next(_ports())


@cache
def _ports() -> Iterator[int]:
    return (port for first in _blocks() for port in range(first, first + BLOCK) if _free(port))


def _blocks() -> Iterator[int]:
    """First ports of blocks that are this process's until it ends: a lock of a file holds each."""
    folder = Path(tempfile.gettempdir()) / "silverray-test-ports"
    folder.mkdir(mode=0o777, exist_ok=True)
    for first in range(FIRST, LAST, BLOCK):
        file = (folder / str(first)).open("a")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            continue
        _held.append(file)
        yield first


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
