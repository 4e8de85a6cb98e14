"""Compiling the kernels of this machine before shards look for them, with a word about how far it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba.core import event

from silverray.shard.engine.engine import Engine


class _Counter(event.Listener):  # type: ignore[misc]  # Numba has no types
    """Tells how many kernels were compiled; those that are found on disk are not."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._done = 0

    def on_start(self, happening: Any) -> None:
        self._say()

    def on_end(self, happening: Any) -> None:
        self._done += 1
        self._say()

    def _say(self) -> None:
        self._tell(f"compiling kernels, once per installation, 2 to 5 minutes: {self._done} done")


def compile_kernels(snapshot: Path, tell: Callable[[str], None]) -> None:
    """Have the CPU kernels on disk, so that the shards of this machine do not all compile them at a time.

    Args:
        snapshot: the version that shards will open.
        tell: told of every kernel that has to be compiled.
    """
    with event.install_listener("numba:compile", _Counter(tell)):
        Engine.open(snapshot, (0,), device="cpu")
