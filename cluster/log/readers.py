"""How far the replicas are that read a log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from silverray.router.writes.log import Reader

FORGET_S = 15.0
"""A reader that has not asked for so long is gone: one that is there asks every second, or is applying a page."""


@dataclass(frozen=True, slots=True)
class _Place:
    applied: int
    asked: float


class Readers:
    """The positions of readers, each as of its last request; those that ask no more are forgotten."""

    def __init__(self) -> None:
        self._places: dict[Reader, _Place] = {}

    def note(self, reader: Reader, applied: int) -> None:
        """Note that a reader has applied all up to a number, and is there."""
        # The same replica before it had caught up, or before it was started again.
        self._places.pop(reader._replace(starting=not reader.starting), None)
        self._places[reader] = _Place(applied, time.monotonic())

    def have_applied(self, seq: int, shards: Sequence[str]) -> bool:
        """Whether every shard has a reader, and every reader of these shards has applied a number."""
        places = self._present()
        settled = {reader: place for reader, place in places.items() if not reader.starting}
        asked = [[place.applied for reader, place in settled.items() if reader.shard == shard] for shard in shards]
        return all(asked) and all(applied >= seq for its in asked for applied in its)

    def describe(self, last: int, *, starting: bool = False) -> list[dict[str, Any]]:
        """One entry a reader that has caught up, or is starting; `last` is the number of the log's last write."""
        return [
            {"shard": reader.shard, "replica": reader.replica, "applied": place.applied, "lag": last - place.applied}
            for reader, place in sorted(self._present().items())
            if reader.starting == starting
        ]

    def _present(self) -> dict[Reader, _Place]:
        oldest = time.monotonic() - FORGET_S
        self._places = {reader: place for reader, place in self._places.items() if place.asked >= oldest}
        return self._places
