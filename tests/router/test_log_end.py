"""What the router knows of the log's end, and how often it asks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from silverray.router.errors import LogUnavailable
from silverray.router.writes.log_end import LogEnd

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class StubLog:
    """A log that says where it ends once it is let."""

    def __init__(self, last: int) -> None:
        self.state: dict[str, Any] = {"last": last}
        self.error: LogUnavailable | None = None
        self.asked = 0
        self.may = asyncio.Event()
        self.may.set()

    async def describe(self) -> dict[str, Any]:
        self.asked += 1
        state = dict(self.state)
        await self.may.wait()
        if self.error:
            raise self.error
        return state


def end(log: StubLog | None, seq: int = 7) -> LogEnd:
    stub: Any = log
    return LogEnd(seq, stub)


async def test_what_the_snapshot_has_needs_no_question() -> None:
    log = StubLog(12)
    assert await end(log).refuse_beyond([0, 7, 3]) == {}
    assert log.asked == 0


async def test_without_a_log_nothing_beyond_the_snapshot_will_ever_be() -> None:
    refused = await end(None).refuse_beyond([0, 8, 7, 9])
    assert sorted(refused) == [1, 3]
    assert str(refused[1]) == (
        "min_seq: the snapshot, which has no log, has not reached sequence number 8: expected at most 7"
    )


async def test_the_log_is_asked_once_for_what_is_not_known() -> None:
    log = StubLog(12)
    one = end(log)
    assert await one.refuse_beyond([12]) == {}
    assert await one.refuse_beyond([11, 12]) == {}
    assert log.asked == 1
    refused = await one.refuse_beyond([2**62, 12])
    assert str(refused[0]) == f"min_seq: the log has not reached sequence number {2**62}: expected at most 12"
    log.state["last"] = 14
    assert await one.refuse_beyond([14]) == {}


async def test_many_that_ask_at_a_time_share_a_question_that_began_after_them() -> None:
    log = StubLog(12)
    log.may.clear()
    one = end(log)
    first = asyncio.create_task(one.refuse_beyond([13]))
    await asyncio.sleep(0)
    log.state["last"] = 13  # written after the first has asked: its answer does not know of it
    later = [asyncio.create_task(one.refuse_beyond([13])) for _ in range(50)]
    await asyncio.sleep(0)
    log.may.set()
    assert list(await first) == [0]
    assert await asyncio.gather(*later) == [{}] * 50
    assert log.asked == 2


async def test_a_log_that_does_not_answer_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("silverray.router.writes.log_end._ASK_S", 0.05)
    log = StubLog(12)
    one = end(log)
    log.error = LogUnavailable("down")
    assert await one.refuse_beyond([13]) == {}
    log.error, log.state = None, {"path": "x", "error": "no such disk"}
    assert await one.refuse_beyond([13]) == {}
    log.may.clear()
    assert await one.refuse_beyond([13]) == {}
    log.may.set()
    log.state = {"last": 12}
    assert list(await one.refuse_beyond([13])) == [0]
