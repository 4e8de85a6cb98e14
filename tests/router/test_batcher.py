from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from silverray.router.batch.batcher import Batcher
from silverray.router.batch.ticket import SearchTicket
from silverray.shard.api import DeadlineExceeded, Overloaded, SearchError, SearchReply

from .conftest import small_query

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def ticket(k: int, seconds: float = 10, keys: bool = False) -> SearchTicket:
    given = np.arange(k) if keys else None
    return SearchTicket(small_query(np.zeros(2, np.float32), k=k, keys=given), time.monotonic() + seconds)


class Gate:
    """A `send` that notes its batches and waits for the gate to open."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.open = asyncio.Event()
        self.most = self.now = 0

    async def send(self, batch: list[SearchTicket]) -> None:
        self.batches.append([ticket.query.k for ticket in batch])
        self.now += 1
        self.most = max(self.most, self.now)
        await self.open.wait()
        self.now -= 1
        for sent in batch:
            sent.resolve(SearchError(str(sent.query.k)))


def batcher(gate: Gate, **given: int) -> Batcher[SearchTicket]:
    return Batcher(gate.send, **({"slots": 1, "max_batch": 64, "max_batch_items": 64_000} | given))


async def test_a_batch_takes_what_is_queued_when_a_slot_frees() -> None:
    gate = Gate()
    queue = batcher(gate)
    first = ticket(1)
    queue.put([first])
    await asyncio.sleep(0.01)
    later = [ticket(k) for k in (2, 3, 4)]
    for one in later:
        queue.put([one])
        await asyncio.sleep(0)
    assert gate.batches == [[1]]
    gate.open.set()
    outcomes = await asyncio.gather(*(one.future for one in (first, *later)))
    assert gate.batches == [[1], [2, 3, 4]]
    assert [str(outcome) for outcome in outcomes] == ["1", "2", "3", "4"]


async def test_batches_hold_one_step_of_k_and_are_bounded() -> None:
    gate = Gate()
    queue = batcher(gate, slots=2)
    gate.open.set()
    ks = [10] * 35 + [20] * 35 + [65, 100] * 40 + [1_000] * 65 + [2_501, 10_000] * 5
    tickets = [ticket(k) for k in ks]
    queue.put(tickets)
    await asyncio.gather(*(one.future for one in tickets))
    assert [len(batch) for batch in gate.batches if batch[0] <= 62] == [64, 6]
    assert [len(batch) for batch in gate.batches if 62 < batch[0] <= 100] == [64, 16]
    assert [len(batch) for batch in gate.batches if 100 < batch[0] <= 1_000] == [64, 1]
    assert [len(batch) for batch in gate.batches if batch[0] > 1_000] == [6, 4]
    assert sorted(k for batch in gate.batches for k in batch) == sorted(ks)
    assert gate.most <= 2


async def test_items_to_rank_travel_by_themselves() -> None:
    gate = Gate()
    queue = batcher(gate)
    gate.open.set()
    tickets = [ticket(1), ticket(2, keys=True), ticket(3), ticket(4, keys=True)]
    queue.put(tickets)
    await asyncio.gather(*(one.future for one in tickets))
    assert sorted(gate.batches) == [[1, 3], [2, 4]]


async def test_the_step_with_the_earliest_deadline_goes_first() -> None:
    gate = Gate()
    queue = batcher(gate)
    gate.open.set()
    tickets = [ticket(10, 9), ticket(10_000, 3), ticket(1_000, 6)]
    queue.put(tickets)
    await asyncio.gather(*(one.future for one in tickets))
    assert gate.batches == [[10_000], [1_000], [10]]


async def test_answered_tickets_are_neither_sent_nor_kept() -> None:
    gate = Gate()
    queue = batcher(gate)
    queue.put([ticket(1)])
    await asyncio.sleep(0.01)
    head, last = ticket(2), ticket(3)
    queue.put([head])
    gone = [ticket(5) for _ in range(5_000)]
    for one in gone:
        queue.put([one])
        one.abandon()
    assert sum(map(len, queue._queues.values())) < 2_100
    queue.put([last])
    gate.open.set()
    await asyncio.gather(head.future, last.future)
    assert gate.batches == [[1], [2, 3]]


async def test_a_ticket_expires_while_it_waits() -> None:
    gate = Gate()
    queue = batcher(gate)
    waiting = [ticket(1), ticket(2, 0.05)]
    queue.put(waiting[:1])
    await asyncio.sleep(0.01)
    queue.put(waiting[1:])
    assert isinstance(await waiting[1].future, DeadlineExceeded)
    gate.open.set()
    await waiting[0].future
    assert gate.batches == [[1]]


async def test_what_is_past_its_deadline_is_not_sent_even_if_its_timer_is_late() -> None:
    gate = Gate()
    queue = batcher(gate)
    late, good = ticket(1, 0.01), ticket(2)
    queue.put([late, good])
    time.sleep(0.03)  # the loop is busy, and takes the batch before it looks at its timers
    await asyncio.sleep(0)
    assert isinstance(await late.future, DeadlineExceeded)
    gate.open.set()
    await good.future
    assert gate.batches == [[2]]


@pytest.mark.parametrize(("raised", "code"), [(Overloaded("full"), "overloaded"), (KeyError("x"), "internal")])
async def test_what_send_raises_answers_the_batch_and_frees_the_slot(raised: Exception, code: str) -> None:
    calls = 0

    async def send(batch: list[SearchTicket]) -> None:
        nonlocal calls
        calls += 1
        raise raised

    queue = Batcher(send, slots=1, max_batch=1, max_batch_items=10)
    tickets = [ticket(1), ticket(1)]
    queue.put(tickets)
    for one in tickets:
        outcome: SearchReply | SearchError = await one.future
        assert isinstance(outcome, SearchError) and outcome.code == code
    assert calls == 2
