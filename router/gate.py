"""The way into the router: what is refused before it is read, and what waits before it is decoded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from silverray.router.backlog import Backlog
from silverray.router.concurrency import Concurrency
from silverray.router.settings import RouterSettings
from silverray.shard.api import Overloaded

_WORK_SHARE = 0.5
"""Of the default deadline: how long a body may wait here, and how long the work may take before there is too much."""
_LEAST = 8
_START_BATCHES = 2


class Gate:
    """Lets bodies in to be decoded, checked and searched; belongs to one event loop.

    Inside are as many queries as can be answered soon (`Concurrency`); other bodies wait in front, undecoded
    (`Backlog`). One body enters in a turn of the event loop, so that health checks, replies and refusals never stand
    behind a row of bodies.

    Args:
        settings: limits and the default deadline.
        clock: tells the time.
    """

    def __init__(self, settings: RouterSettings, clock: Callable[[], float] = time.monotonic) -> None:
        patience_s = _WORK_SHARE * settings.deadline_s
        self._most = settings.max_pending
        self._clock = clock
        self._backlog: Backlog[asyncio.Future[None]] = Backlog(patience_s)
        self._concurrency = Concurrency(
            patience_s,
            least=max(_LEAST, settings.slots),
            start=_START_BATCHES * settings.slots * settings.max_batch,
            most=self._most,
        )
        self._inside = 0
        self._refused = 0
        self._given_up = 0
        self._pump_due = False
        self._sweep: asyncio.TimerHandle | None = None

    def check(self) -> None:
        """Refuse a body that has not been read.

        Raises:
            Overloaded: as many as may wait or be in flight do.
        """
        open_ = self._inside + len(self._backlog)
        if open_ >= self._most:
            self._refused += 1
            raise Overloaded(f"{open_} of {self._most} requests are waiting already")

    async def enter(self) -> Visit:
        """Wait for a body's turn; what it returns must be left.

        Raises:
            Overloaded: it has waited too long, or as many as may wait or be in flight do.
        """
        self.check()
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._backlog.put(turn, self._clock())
        self._schedule()
        try:
            await turn
        except BaseException:
            if turn.cancelled():
                self._backlog.remove(turn)
            elif turn.exception() is None:  # its caller left in the very turn in which it was let in
                self._inside -= 1
                self._schedule()
            raise
        return Visit(self, self._clock())

    def to_document(self) -> dict[str, Any]:
        """The state of the gate and its counts, as in a status reply."""
        return {
            "limit": self._concurrency.limit,
            "inside": self._inside,
            "waiting": len(self._backlog),
            "refused": self._refused,
            "given_up": self._given_up,
        }

    @property
    def open(self) -> bool:
        """Whether there is room inside."""
        return self._inside < self._concurrency.limit

    def _weigh(self, queries: int) -> None:
        self._inside += queries

    def _left(self, queries: int, began: float | None) -> None:
        if began is not None:
            self._concurrency.learn(began, self._clock(), full=not self.open or len(self._backlog) > 0)
        self._inside -= queries
        self._schedule()

    def _schedule(self) -> None:
        if self._pump_due or not self._backlog:
            return
        loop = asyncio.get_running_loop()
        if self.open:
            self._pump_due = True
            loop.call_soon(self._pump)
        elif self._sweep is None:
            wait_s = self._backlog.next_s(self._clock())
            self._sweep = loop.call_later(wait_s or 0.0, self._give_up)

    def _pump(self) -> None:
        self._pump_due = False
        self._drop()
        if self._backlog and self.open:
            self._inside += 1
            self._backlog.take(self._clock()).set_result(None)
        self._schedule()

    def _give_up(self) -> None:
        self._sweep = None
        self._drop()
        self._schedule()

    def _drop(self) -> None:
        now = self._clock()
        for turn in self._backlog.give_up(now):
            self._given_up += 1
            if not turn.done():
                turn.set_exception(Overloaded("the request waited too long for its turn and was not read"))


class Visit:
    """A body inside the gate; a context manager that leaves it.

    Args:
        gate: the gate.
        began: when it entered.
    """

    def __init__(self, gate: Gate, began: float) -> None:
        self._gate = gate
        self._began: float | None = began
        self._queries = 1

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self._gate._left(self._queries, self._began)

    def weigh(self, queries: int) -> None:
        """Say how many queries the body holds, once that is known."""
        self._gate._weigh(queries - self._queries)
        self._queries = queries

    def waits(self) -> None:
        """Say that the time it takes tells nothing of load: it waits for a write to be applied."""
        self._began = None
