"""Fan-out: one call per shard for a whole batch, and every request answered at its own deadline."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silverray.router.batch.answer import Share, combine
from silverray.router.batch.ticket import SearchTicket
from silverray.router.errors import Unavailable, at
from silverray.shard.api import DeadlineExceeded, SearchError, SequenceNotReached
from silverray.shard.protocol import Shard
from silverray.shard.query import Query, QueryBatch
from silverray.shard.result_batch import Outcome, ResultBatch

_logger = logging.getLogger(__name__)

_HANGING_S = 0.05
"""Least time before a shard is taken for hanging: a search takes less, and a pause of the garbage collector too."""
_PATIENCE = 3.0
"""How many times longer than the slowest recent answer a call may take; see decision 14.2."""
_FORGET = 0.95
"""What is left of the slowest answer after each later one: one slow batch counts for some twenty."""
_INLINE_ITEMS = 4_000
"""Items that are merged within the event loop, in less than a millisecond; more would hold up other requests."""
_COMPLAIN_EVERY_S = 1.0
"""Time between two complaints about a shard: a dead one fails thousands of requests a second."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A shard as the router sees it.

    Attributes:
        name: what logs, status and explanations call it.
        shard: answers; a cancelled call should give up what it waits for.
        items: number of items that the shard holds.
        partitions: those that it holds, so that it is asked to rank only their items; None asks it about all.
    """

    name: str
    shard: Shard
    items: int
    partitions: tuple[int, ...] | None = None


class Fanout:
    """Asks every backend and answers tickets with what came back in time.

    A backend that raises, returns an error for a request, or answers from another version has not answered.
    One that lets a deadline pass, or takes far longer than of late, is *hanging* until a call to it ends: it no
    longer holds up the batches that come after, and is left out of them while `open_calls` calls to it are open.

    Args:
        backends: at least one; their items are disjoint.
        version: snapshot version that answers must come from.
        partitions: number of partitions of the snapshot.
        open_calls: most open calls to a hanging backend; one that only was slow for once must not miss a batch.
    """

    def __init__(self, backends: Sequence[Backend], version: str, partitions: int = 1, open_calls: int = 8) -> None:
        if not backends:
            raise ValueError("backends: expected at least one, got none")
        self._lanes = [_Lane(backend, partitions, version) for backend in backends]
        self._version = version
        self._open_calls = open_calls
        self._flights: set[asyncio.Task[None]] = set()

    @property
    def silent(self) -> list[str]:
        """Names of the backends that have not answered a single call yet."""
        return [lane.backend.name for lane in self._lanes if not lane.heard]

    @property
    def hanging(self) -> bool:
        """Whether a backend does not answer."""
        return any(lane.hanging for lane in self._lanes)

    def to_document(self) -> list[dict[str, Any]]:
        """One entry per backend for a status reply."""
        return [
            {
                "name": lane.backend.name,
                "items": lane.backend.items,
                "heard": lane.heard,
                "hanging": lane.hanging,
                "open_calls": lane.calls,
                "failed_calls": lane.failures,
            }
            for lane in self._lanes
        ]

    async def send(self, tickets: Sequence[SearchTicket]) -> None:
        """Send a batch; returns when the next one may go.

        By then every backend that is not hanging has answered. Every ticket is answered by its deadline, if
        need be after the return.
        """
        asked = [lane for lane in self._lanes if not lane.hanging or lane.calls < self._open_calls]
        flight = _Flight(self._lanes, asked or self._lanes, tickets, self._version)
        task = asyncio.create_task(flight.run())
        self._flights.add(task)
        task.add_done_callback(self._flights.discard)
        await flight.landed.wait()

    async def seq_of(self, name: str, query: Query) -> int | None:
        """Number of the last write that a replica of a shard has applied, by a small query; None if it is silent."""
        (lane,) = (lane for lane in self._lanes if lane.backend.name == name)
        results = await lane.call(QueryBatch.of([query]))
        return None if results.errors else results.seqs[0]

    async def close(self) -> None:
        """Cut every open call; tickets still open are answered with what is there."""
        flights = list(self._flights)
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)


class _Lane:
    """A backend and how it has been doing."""

    def __init__(self, backend: Backend, partitions: int, version: str) -> None:
        self.backend = backend
        self._version = version
        self._holds: NDArray[np.bool_] | None = None
        if backend.partitions is not None:
            self._holds = np.isin(np.arange(partitions), backend.partitions)
        self.calls = 0
        self.failures = 0
        self.heard = False
        self.hanging = False
        self._slowest: float | None = None
        self._complained = -_COMPLAIN_EVERY_S

    @property
    def patience_s(self) -> float:
        """How long a call may be open before the shard counts as hanging; without end until it has answered once.

        A multiple of the slowest recent answer, so that heavy batches are not taken for a dead process.
        """
        return math.inf if self._slowest is None else max(_HANGING_S, _PATIENCE * self._slowest)

    async def call(self, batch: QueryBatch) -> ResultBatch:
        """What the shard makes of a batch; it is asked to rank only items that it may hold."""
        self.calls += 1
        sent = time.monotonic()
        try:
            results = await self.backend.shard.answer(batch if self._holds is None else batch.held_by(self._holds))
            results.check(len(batch))
            if results.version != self._version:
                raise Unavailable(f"answers from version {results.version!r}, not {self._version!r}")
        except SearchError as error:
            results = self._failed(error, len(batch))
        except Exception as error:
            results = self._failed(Unavailable(f"{type(error).__name__}: {error}"), len(batch))
        else:
            self.heard = True
            self._slowest = max(time.monotonic() - sent, _FORGET * (self._slowest or 0.0))
            self._look(results.errors.values())
        finally:
            self.calls -= 1
        self.hanging = False
        return results

    def complain(self, what: object) -> None:
        """Log what went wrong, at most once a second: a dead shard fails thousands of requests."""
        now = time.monotonic()
        if now - self._complained >= _COMPLAIN_EVERY_S:
            self._complained = now
            _logger.warning("shard %s: %s", self.backend.name, what)

    def _failed(self, error: SearchError, count: int) -> ResultBatch:
        self.failures += 1
        self.complain(error)
        return ResultBatch.failed([error] * count, self._version)

    def _look(self, errors: Iterable[SearchError]) -> None:
        for error in errors:
            if not isinstance(error, (DeadlineExceeded, SequenceNotReached)):
                self.complain(error)
                return


class _Flight:
    """One batch on its way: the open calls and what has been said so far."""

    def __init__(
        self, lanes: Sequence[_Lane], asked: Sequence[_Lane], tickets: Sequence[SearchTicket], version: str
    ) -> None:
        self.landed = asyncio.Event()
        self._lanes = lanes
        self._asked = asked
        self._tickets = tickets
        self._version = version
        self._said: dict[_Lane, ResultBatch] = {}

    async def run(self) -> None:
        """Ask the shards, and answer each ticket by its deadline."""
        try:
            await self._fly()
        except Exception:
            _logger.exception("a batch of %d requests failed", len(self._tickets))
            for ticket in self._tickets:
                ticket.resolve(SearchError("internal error"))
        finally:
            self.landed.set()

    async def _fly(self) -> None:
        sent = time.monotonic()
        for ticket in self._tickets:
            ticket.take_over()
        batch = QueryBatch.of([ticket.query for ticket in self._tickets])
        batch = batch.within([max(0.0, ticket.deadline - sent) for ticket in self._tickets])
        hanging = Unavailable("not asked while it hangs")
        self._said = {lane: self._all(hanging) for lane in self._lanes if lane not in self._asked}
        calls = {asyncio.create_task(self._ask(lane, batch)): lane for lane in self._asked}
        waiting = deque(sorted(enumerate(self._tickets), key=lambda place: place[1].deadline))
        try:
            while waiting and calls:
                patience = [lane.patience_s for lane in calls.values() if not lane.hanging]
                left = min(waiting[0][1].deadline, sent + min(patience, default=math.inf)) - time.monotonic()
                done, _ = await asyncio.wait(calls, timeout=max(0.0, left), return_when=asyncio.FIRST_COMPLETED)
                for call in done:
                    lane = calls.pop(call)
                    # A shard may raise CancelledError of its own accord: to this batch that is one more failure.
                    cancelled = Unavailable("the call was cancelled")
                    self._said[lane] = self._all(cancelled) if call.cancelled() else call.result()
                if calls:
                    self._expire(waiting, calls.values(), sent)
        finally:
            for call in calls:
                call.cancel()
            self._resolve(waiting)

    async def _ask(self, lane: _Lane, batch: QueryBatch) -> ResultBatch:
        """What a shard makes of the queries that it has not answered in an earlier flight."""
        name = lane.backend.name
        kept = {place: ticket.kept[name] for place, ticket in enumerate(self._tickets) if name in ticket.kept}
        if not kept:
            return await lane.call(batch)
        places = [place for place in range(len(batch)) if place not in kept]
        parts = [*kept.values(), *([await lane.call(batch.take(places))] if places else [])]
        return ResultBatch.joined(parts, self._version).take(np.argsort([*kept, *places]).tolist())

    def _expire(self, waiting: deque[tuple[int, SearchTicket]], late: Collection[_Lane], sent: float) -> None:
        now = time.monotonic()
        missed = bool(waiting) and waiting[0][1].deadline <= now
        expired = []
        while waiting and waiting[0][1].deadline <= now:
            expired.append(waiting.popleft())
        self._resolve(expired)
        for lane in late:
            if now - sent >= (_HANGING_S if missed else lane.patience_s):
                lane.hanging = True
        # With every lane hanging there is nobody to hurry for: the next batch would only wait as well.
        if all(lane.hanging for lane in late) and not all(lane.hanging for lane in self._lanes):
            self.landed.set()

    def _resolve(self, places: Iterable[tuple[int, SearchTicket]]) -> None:
        """Answer tickets with what has been said so far."""
        due = sorted((place, ticket) for place, ticket in places if not ticket.done)
        if not due:
            return
        tickets = [ticket for _, ticket in due]
        shares = [Share(lane.backend.name, lane.backend.items, self._said_by(lane, due)) for lane in self._lanes]
        for row, ticket in enumerate(tickets):
            if ticket.query.min_seq:
                for share in shares:
                    ticket.hear(share.name, share.results, row)
        if sum(len(share.results.keys) for share in shares) <= _INLINE_ITEMS:
            _hand_over(tickets, _combine(tickets, shares, self._version))
            return
        merge = asyncio.get_running_loop().run_in_executor(None, _combine, tickets, shares, self._version)
        merge.add_done_callback(lambda merged: None if merged.cancelled() else _hand_over(tickets, merged.result()))

    def _said_by(self, lane: _Lane, due: Sequence[tuple[int, SearchTicket]]) -> ResultBatch:
        """What a shard has said of the tickets that are due, in this flight or an earlier one."""
        said = self._said.get(lane) or self._all(DeadlineExceeded("the shard did not answer in time"))
        mine, name = said.take([place for place, _ in due]), lane.backend.name
        kept = {row: due[row][1].kept[name] for row in mine.errors if name in due[row][1].kept}
        if not kept:
            return mine
        order = {row: len(mine) + place for place, row in enumerate(kept)}
        parts = ResultBatch.joined([mine, *kept.values()], self._version)
        return parts.take([order.get(row, row) for row in range(len(mine))])

    def _all(self, error: SearchError) -> ResultBatch:
        return ResultBatch.failed([error] * len(self._tickets), self._version)


def _hand_over(tickets: Sequence[SearchTicket], outcomes: Sequence[Outcome]) -> None:
    for ticket, outcome in zip(tickets, outcomes, strict=True):
        ticket.resolve(outcome)


def _combine(tickets: Sequence[SearchTicket], shares: Sequence[Share], version: str) -> list[Outcome]:
    try:
        outcomes = combine([ticket.query for ticket in tickets], shares, version).rows()
    except Exception:
        if len(tickets) > 1:  # one list that cannot be merged must not fail the queries that share its batch
            return [
                outcome for place in range(len(tickets)) for outcome in _combine_one(tickets, shares, place, version)
            ]
        _logger.exception("the lists of %s could not be merged", [share.name for share in shares])
        return [SearchError("internal error")]
    return [
        at(ticket.where, outcome) if isinstance(outcome, SearchError) else outcome
        for ticket, outcome in zip(tickets, outcomes, strict=True)
    ]


def _combine_one(tickets: Sequence[SearchTicket], shares: Sequence[Share], place: int, version: str) -> list[Outcome]:
    alone = [share._replace(results=share.results.take([place])) for share in shares]
    return _combine([tickets[place]], alone, version)
