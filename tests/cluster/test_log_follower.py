"""Following a log: order, restarts, failures of either side."""

import asyncio
import gc
import random
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE_S

from silverray.cluster.log import follower
from silverray.cluster.log.follower import LogFollower
from silverray.cluster.log.writer import LogWriter
from silverray.router.errors import LogUnavailable
from silverray.router.writes.log import LogPage, Reader
from silverray.shard.live.writes import Delete, Entry, encode

pytestmark = pytest.mark.anyio

READER = Reader("shard-0", "a")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "_FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(follower, "_LONGEST_PAUSE_S", 0.004)
    monkeypatch.setattr(follower, "_LIMIT", 7)


class Replica:
    """Notes what it is given; refuses now and then, as told."""

    def __init__(self, applied: int = 0, fails: float = 0.0) -> None:
        self.entries: list[Entry] = []
        self.applied = applied
        self._random = random.Random(3)
        self._fails = fails

    def apply(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if self._random.random() < self._fails:
                raise RuntimeError("out of luck")
            assert entry.seq <= self.applied + 1
            if entry.seq > self.applied:
                self.entries.append(entry)
                self.applied = entry.seq


class Faulty:
    """A log of which every third call fails."""

    def __init__(self, log: LogWriter) -> None:
        self._log = log
        self._calls = 0

    async def read(self, *args: Any) -> LogPage:
        self._calls += 1
        if self._calls % 3 == 0:
            raise LogUnavailable("the log's writer is down")
        return await self._log.read(*args)


async def fill(log: LogWriter, first: int, bodies: int) -> int:
    """Append bodies of 1 to 5 deletes of ids from `first` on; returns the next id."""
    for number in range(bodies):
        ids = range(first, first + 1 + number % 5)
        assert await log.append(encode([Delete(id_) for id_ in ids]), len(ids), 10) == ids[-1]
        first = ids[-1] + 1
    return first


def expected(first: int, stop: int) -> list[Entry]:
    return [Entry(seq, Delete(seq)) for seq in range(first, stop)]


async def until(replica: Replica, applied: int) -> None:
    while replica.applied < applied:
        await asyncio.sleep(0.01)


async def test_entries_come_in_order_and_once(tmp_path: Path) -> None:
    log, replica = LogWriter(tmp_path / "updates.db"), Replica()
    stop = await fill(log, 1, 20)
    one = LogFollower(log, READER, replica.apply, 0)
    one.start()
    assert await one.settled()
    assert replica.entries == expected(1, stop)
    assert await log.applied(stop - 1, ["shard-0"], 0)
    more = await fill(log, stop, 9)
    assert await log.applied(more - 1, ["shard-0"], 10)
    assert replica.entries == expected(1, more)
    assert one.describe() == {"applied": more - 1, "lag": 0, "failures": 0, "error": None}
    await one.stop()
    await log.close()


async def test_it_goes_on_from_the_middle_of_a_body(tmp_path: Path) -> None:
    log, replica = LogWriter(tmp_path / "updates.db"), Replica(applied=9)
    stop = await fill(log, 1, 20)  # bodies end at 1, 3, 6, 10, 15, ...
    one = LogFollower(log, READER, replica.apply, replica.applied)
    one.start()
    assert await one.settled()
    assert replica.entries == expected(10, stop)
    await one.stop()
    await log.close()


async def test_failures_of_both_sides_lose_and_repeat_nothing(tmp_path: Path) -> None:
    log, replica = LogWriter(tmp_path / "updates.db"), Replica(fails=0.1)
    stop = await fill(log, 1, 30)
    faulty: Any = Faulty(log)
    for _ in range(3):  # a replica that is told to stop begins again from what it has applied
        one = LogFollower(faulty, READER, replica.apply, replica.applied)
        one.start()
        await asyncio.sleep(0.02)
        await one.stop()
    one = LogFollower(faulty, READER, replica.apply, replica.applied)
    one.start()
    await until(replica, stop - 1)
    stop = await fill(log, stop, 30)
    await until(replica, stop - 1)
    assert replica.entries == expected(1, stop)
    await one.stop()
    await log.close()


async def test_without_a_log_it_settles_and_catches_up_later(tmp_path: Path) -> None:
    (tmp_path / "disk").write_text("not mounted")
    log, replica = LogWriter(tmp_path / "disk" / "updates.db"), Replica()
    one = LogFollower(log, READER, replica.apply, 0)
    one.start()
    assert not await one.settled()
    told = one.describe()
    assert (told["applied"], told["lag"]) == (0, None)
    assert told["failures"] >= 5 and told["error"].startswith("LogUnavailable: ")
    (tmp_path / "disk").unlink()
    stop = await fill(log, 1, 3)
    await until(replica, stop - 1)
    assert replica.entries == expected(1, stop)
    await one.stop()
    await log.close()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"\x92\x09\x90", "writes: expected format 1, got [9, []]"),  # of a later release
        (encode([Delete(2)])[:-1], "Unpack failed: incomplete input"),
        (encode([Delete(2), Delete(3)]), "the record holds 2"),
    ],
)
async def test_a_record_that_cannot_be_read_holds_up_what_follows(tmp_path: Path, body: bytes, reason: str) -> None:
    log, replica = LogWriter(tmp_path / "updates.db"), Replica()
    await log.append(encode([Delete(1)]), 1, 10)
    await log.append(body, 1, 10)
    await log.append(encode([Delete(3)]), 1, 10)
    one = LogFollower(log, READER, replica.apply, 0)
    one.start()
    assert not await one.settled()
    assert replica.entries == expected(1, 2)
    assert one.describe()["error"] == f"LogUnreadable: writes 2 to 2 cannot be read: {reason}"
    assert one.describe()["applied"] == 1
    await one.stop()
    # A version that was published with these writes goes on behind them.
    later = Replica(applied=2)
    two = LogFollower(log, READER, later.apply, later.applied)
    two.start()
    assert await two.settled()
    assert later.entries == expected(3, 4)
    await two.stop()
    await log.close()


async def test_stopping_waits_for_what_is_being_applied(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "updates.db")
    await fill(log, 1, 1)
    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def apply(entries: Sequence[Entry]) -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        done.set()

    one = LogFollower(log, READER, apply, 0)
    one.start()
    await asyncio.to_thread(begun.wait, 10)
    stopping = asyncio.create_task(one.stop())
    await asyncio.sleep(0.05)
    assert not stopping.done()
    go_on.set()
    await stopping
    assert done.is_set() and one.applied == 1
    await log.close()


async def test_what_fails_while_it_stops_is_told(tmp_path: Path) -> None:
    log = LogWriter(tmp_path / "updates.db")
    await fill(log, 1, 1)
    begun, go_on = threading.Event(), threading.Event()
    lost: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: lost.append(context))

    def apply(entries: Sequence[Entry]) -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        raise RuntimeError("out of luck")

    one = LogFollower(log, READER, apply, 0)
    one.start()
    await asyncio.to_thread(begun.wait, 10)
    stopping = asyncio.create_task(one.stop())
    await asyncio.sleep(0.05)
    go_on.set()
    await stopping
    gc.collect()
    assert not lost
    assert one.applied == 0 and one.describe()["error"] == "RuntimeError: out of luck"
    await log.close()
