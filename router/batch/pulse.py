"""How far behind the event loop is, so that time in its backlog counts against deadlines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

BEAT_S = 0.02
"""Time between two beats: short beside the shortest deadlines in use, long beside what a beat costs (some µs)."""
_STOPS_AFTER_S = 1.0
"""Time without requests after which the timer rests: an idle router wakes no processor."""


class Pulse:
    """Measures by a timer how late the loop runs; belongs to one event loop.

    A request lies in a socket and in the loop's queue before its handler runs, and nothing notes when it came. It came
    no earlier than the loop is late by, so that is taken off. The timer runs only while requests come.

    Args:
        clock: tells the time; the loop's own.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lag_s = 0.0
        self._due: float | None = None
        self._asked = 0.0

    def arrived(self) -> float:
        """When a request came that is handled now, as early as it may have been."""
        now = self._asked = self._clock()
        if self._due is None:
            self._schedule(now)
            return now
        return now - self.lag_s

    @property
    def lag_s(self) -> float:
        """How late the loop is: as its last beat was, or as its next one is already."""
        return 0.0 if self._due is None else max(self._lag_s, self._clock() - self._due)

    def _schedule(self, now: float) -> None:
        self._due = now + BEAT_S
        asyncio.get_running_loop().call_later(BEAT_S, self._beat)

    def _beat(self) -> None:
        now = self._clock()
        assert self._due is not None, "a beat is due"
        self._lag_s = max(0.0, now - self._due)
        if now - self._asked - self._lag_s > _STOPS_AFTER_S:
            self._due, self._lag_s = None, 0.0
        else:
            self._schedule(now)
