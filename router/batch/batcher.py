"""Micro-batching: a batch takes what is queued when one of a few slots frees."""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Awaitable, Callable, Iterable

from silverray.router.batch.ticket import Ticket
from silverray.shard.api import MAX_K, SearchError

_logger = logging.getLogger(__name__)

K_GROUPS = (10, 100, 1_000, MAX_K)
"""Upper ends of the groups of k: a batch holds one group, so that no request is padded to a far larger k."""

_SWEEP = 1_024


class Batcher:
    """Queues tickets by their k and hands them on in batches.

    With no batch in flight a request leaves at once; under load batches grow by themselves, with no window to
    wait for. The group whose first request has the earliest deadline goes first. Tickets that were answered
    while they waited (their deadline passed, their caller left) are not sent.

    Args:
        send: takes a batch and returns when the next may go; it need not have answered the tickets by then.
            What it raises answers the whole batch.
        slots: calls of `send` at a time.
        max_batch: most tickets in a batch.
        max_batch_items: most tickets times the upper end of their group; a single ticket always goes.
    """

    def __init__(
        self,
        send: Callable[[list[Ticket]], Awaitable[None]],
        *,
        slots: int,
        max_batch: int,
        max_batch_items: int,
    ) -> None:
        self._send = send
        self._slots = slots
        self._sizes = [max(1, min(max_batch, max_batch_items // k)) for k in K_GROUPS]
        self._queues: list[deque[Ticket]] = [deque() for _ in K_GROUPS]
        self._sweep_at = [_SWEEP] * len(K_GROUPS)
        self._running: set[asyncio.Task[None]] = set()
        self._pump_due = False

    def put(self, tickets: Iterable[Ticket]) -> None:
        """Queue tickets; a batch that can go leaves in the next turn of the event loop."""
        for ticket in tickets:
            group = bisect_left(K_GROUPS, ticket.request.k)
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

    async def _run(self, batch: list[Ticket]) -> None:
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

    def _take(self) -> list[Ticket]:
        heads: list[tuple[float, int]] = []
        for group, queue in enumerate(self._queues):
            while queue and queue[0].done:
                queue.popleft()
            if queue:
                heads.append((queue[0].deadline, group))
        if not heads:
            return []
        group = min(heads)[1]
        queue = self._queues[group]
        batch: list[Ticket] = []
        now = time.monotonic()
        while queue and len(batch) < self._sizes[group]:
            ticket = queue.popleft()
            if not ticket.done and ticket.deadline <= now:  # its timer is late, as the loop is
                ticket.expire()
            if not ticket.done:
                batch.append(ticket)
        return batch

    def _sweep(self, group: int) -> None:
        """Forget answered tickets behind a head that still waits, or a stuck batch would let them pile up."""
        self._queues[group] = deque(ticket for ticket in self._queues[group] if not ticket.done)
        self._sweep_at[group] = max(_SWEEP, 2 * len(self._queues[group]))
