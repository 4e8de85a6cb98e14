"""The way into the router: what is refused before it is read, and what waits before it is decoded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from silverray.router.batch.backlog import Backlog
from silverray.router.batch.concurrency import Concurrency
from silverray.router.settings import RouterSettings
from silverray.shard.api import Overloaded

_SHARE = 0.4
"""Of the deadlines in use: how long a body may wait here, and how long its work may take before there is too much. What
is left of the deadline is for a limit that has just grown a little too far."""
_LEAST = 8
"""Queries that are always worked on at a time, however slow: a body of the usual kind, so that none is shut out."""
A_TURN = 8
"""Bodies that enter in a turn of the event loop: some ms of decoding, which a busy loop still comes to often enough."""
_FORGET = 0.125
"""How fast earlier deadlines are forgotten: some ten bodies say what clients ask for now."""
_START_BATCHES = 2
"""Batches per slot at the beginning: one in flight and one that fills meanwhile."""


_SLACK_S = 0.001
"""So that a timer does not fire just before somebody's time is up, and at once again."""


class Gate:
    """Lets bodies in to be decoded, checked and searched; belongs to one event loop.

    Inside are as many queries as can be answered soon (`Concurrency`); other bodies wait in front, undecoded
    (`Backlog`). A few bodies enter in a turn of the event loop, so that health checks, replies and refusals never stand
    behind a long row of bodies.

    Args:
        settings: limits and the default deadline.
        clock: tells the time.
    """

    def __init__(self, settings: RouterSettings, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = settings.max_pending
        self._deadline_s = settings.deadline_s
        self._clock = clock
        self._backlog: Backlog[asyncio.Future[None]] = Backlog(_SHARE * settings.deadline_s)
        self._concurrency = Concurrency(
            _SHARE * settings.deadline_s,
            least=max(_LEAST, settings.slots),
            start=_START_BATCHES * settings.slots * settings.max_batch,
            most=self._most,
        )
        self._inside = 0
        self._refused = 0
        self._given_up = 0
        self._pump_due = False
        self._sweep: asyncio.TimerHandle | None = None

    @property
    def inside(self) -> int:
        """Queries inside, and bodies that are being decoded."""
        return self._inside

    def check(self) -> None:
        """Refuse a body that has not been read.

        Raises:
            Overloaded: as many as may wait or be in flight do.
        """
        taken = self._inside + len(self._backlog)
        if taken >= self._most:
            self._refused += 1
            raise Overloaded(f"{taken} of {self._most} requests are waiting already")

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
        except asyncio.CancelledError:
            if turn.cancelled():
                self._backlog.remove(turn)
            else:  # its caller left after it was let in
                self.free(1)
            raise
        return Visit(self, self._clock())

    def occupy(self, queries: int) -> None:
        """Count queries that are worked on from now on."""
        self._inside += queries

    def free(self, queries: int) -> None:
        """Count queries that are worked on no more."""
        self._inside -= queries
        self._schedule()

    def expect(self, deadline_s: float) -> None:
        """Take notice of a body's deadline; what may be waited for follows those that clients ask for."""
        self._deadline_s += _FORGET * (deadline_s - self._deadline_s)
        self._backlog.expect(_SHARE * self._deadline_s)
        self._concurrency.expect(_SHARE * self._deadline_s)

    def learn(self, began: float) -> None:
        """Take notice of an answer whose work began then; see `Concurrency`."""
        self._concurrency.learn(began, self._clock(), full=len(self._backlog) > 0)

    def to_document(self) -> dict[str, Any]:
        """The state of the gate and its counts, as in a status reply."""
        return {
            "limit": self._concurrency.limit,
            "inside": self._inside,
            "waiting": len(self._backlog),
            "refused": self._refused,
            "given_up": self._given_up,
        }

    def _schedule(self) -> None:
        if self._pump_due or not self._backlog:
            return
        loop = asyncio.get_running_loop()
        if self._inside < self._concurrency.limit:
            self._pump_due = True
            loop.call_soon(self._pump)
        elif self._sweep is None:
            self._sweep = loop.call_later(self._backlog.next_s(self._clock()) + _SLACK_S, self._give_up)

    def _pump(self) -> None:
        self._pump_due = False
        self._drop()
        let_in = 0
        while self._backlog and let_in < A_TURN and self._inside < self._concurrency.limit:
            turn = self._backlog.take(self._clock())
            if not turn.done():  # its caller may have left in this very turn
                self.occupy(1)
                turn.set_result(None)
                let_in += 1
        self._schedule()

    def _give_up(self) -> None:
        self._sweep = None
        self._drop()
        self._schedule()

    def _drop(self) -> None:
        for turn in self._backlog.give_up(self._clock()):
            if not turn.done():
                self._given_up += 1
                turn.set_exception(Overloaded("the request waited too long for its turn and was given up"))


class Visit:
    """A body inside the gate; a context manager that leaves it.

    Args:
        gate: the gate, which counts it as one query until it is decoded.
        began: when it entered.
    """

    def __init__(self, gate: Gate, began: float) -> None:
        self._gate = gate
        self._began = began
        self._weight = 1

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self._gate.free(self._weight)

    def decoded(self, deadline_s: float) -> None:
        """Say that the body's queries count by themselves from here on, and how long they may take at most."""
        self._gate.expect(deadline_s)
        self._gate.occupy(-self._weight)
        self._weight = 0

    def answered(self) -> None:
        """Let the gate learn from how long it took."""
        self._gate.learn(self._began)
