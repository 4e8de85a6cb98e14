"""Micro-batching: a batch takes what is queued when one of a few slots frees."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

from silverray.router.batch.ticket import Group, Ticket
from silverray.shard.api import SearchError

_logger = logging.getLogger(__name__)

AnyTicket = TypeVar("AnyTicket", bound=Ticket)

_SWEEP = 1_024
"""Tickets of a group that wait before those among them that were answered meanwhile are looked for: fewer cost next to
nothing to keep, and every ticket is then looked at twice at most."""


class Batcher(Generic[AnyTicket]):
    """Queues tickets by their group and hands them on in batches, each of one group: those are searched alike.

    With no batch in flight a request leaves at once; under load batches grow by themselves, with no window to
    wait for. The group whose first request has the earliest deadline goes first. Tickets that were answered
    while they waited (their deadline passed, their caller left) are not sent.

    Args:
        send: takes a batch and returns when the next may go; it need not have answered the tickets by then.
            What it raises answers the whole batch.
        slots: calls of `send` at a time.
        max_batch: most tickets in a batch.
        max_batch_items: most tickets times their step; a single ticket always goes.
    """

    def __init__(
        self,
        send: Callable[[list[AnyTicket]], Awaitable[None]],
        *,
        slots: int,
        max_batch: int,
        max_batch_items: int,
    ) -> None:
        self._send = send
        self._slots = slots
        self._max_batch = max_batch
        self._max_batch_items = max_batch_items
        self._queues: defaultdict[Group, deque[AnyTicket]] = defaultdict(deque)
        self._sweep_at: defaultdict[Group, int] = defaultdict(lambda: _SWEEP)
        self._running: set[asyncio.Task[None]] = set()
        self._pump_due = False

    def put(self, tickets: Iterable[AnyTicket]) -> None:
        """Queue tickets; a batch that can go leaves in the next turn of the event loop."""
        for ticket in tickets:
            group = ticket.group
            self._queues[group].append(ticket)
            if len(self._queues[group]) > self._sweep_at[group]:
                self._sweep(group)
        if not self._pump_due and len(self._running) < self._slots:
            # In the next turn, so that requests that arrived in this one share a batch.
            self._pump_due = True
            asyncio.get_running_loop().call_soon(self._pump)

    async def close(self) -> None:
        """Stop the batches in flight."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _pump(self) -> None:
        self._pump_due = False
        while len(self._running) < self._slots and (batch := self._take()):
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            self._pump()

    async def _run(self, batch: list[AnyTicket]) -> None:
        error = SearchError("internal error")
        try:
            await self._send(batch)
        except SearchError as raised:
            error = raised
        except Exception:
            _logger.exception("a batch of %d requests failed", len(batch))
        else:
            return
        for ticket in batch:
            ticket.resolve(error)

    def _take(self) -> list[AnyTicket]:
        heads: list[tuple[float, Group]] = []
        for group, queue in self._queues.items():
            while queue and queue[0].done:
                queue.popleft()
            if queue:
                heads.append((queue[0].deadline, group))
        if not heads:
            return []
        group = min(heads)[1]
        queue = self._queues[group]
        batch: list[AnyTicket] = []
        size, now = max(1, min(self._max_batch, self._max_batch_items // group.step)), time.monotonic()
        while queue and len(batch) < size:
            ticket = queue.popleft()
            if not ticket.done and ticket.deadline <= now:  # its timer is late, as the loop is
                ticket.expire()
            if not ticket.done:
                batch.append(ticket)
        return batch

    def _sweep(self, group: Group) -> None:
        """Forget answered tickets behind a head that still waits, or a stuck batch would let them pile up."""
        self._queues[group] = deque(ticket for ticket in self._queues[group] if not ticket.done)
        self._sweep_at[group] = max(_SWEEP, 2 * len(self._queues[group]))
