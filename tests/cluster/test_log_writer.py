"""The writer: commits in groups, waits at the end of the log, and what it knows of its readers."""

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE_S

from silverray.cluster.log import readers, writer
from silverray.cluster.log.claim import claim_store
from silverray.cluster.log.store import LogStore
from silverray.cluster.log.writer import LogWriter, hide
from silverray.router.errors import LogFenced, LogFull, LogGap, LogUnavailable
from silverray.router.writes.log import LogPage, LogRecord, Reader
from silverray.shard.api import Overloaded
from silverray.shard.snapshot.manifest import CLAIM

pytestmark = pytest.mark.anyio

A, B, C = Reader("shard-0", "a"), Reader("shard-0", "b"), Reader("shard-1", "c")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "updates.db"


class Gate:
    """Holds a store's appends up while it is closed, and notes how many bodies each has."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.groups: list[int] = []
        self.open = threading.Event()
        append = LogStore.append

        def wait(store: LogStore, bodies: Sequence[tuple[bytes, int]]) -> list[int]:
            self.groups.append(len(bodies))
            assert self.open.wait(PATIENCE_S)
            return append(store, bodies)

        monkeypatch.setattr(LogStore, "append", wait)


async def test_bodies_that_wait_are_committed_together(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, log = Gate(monkeypatch), LogWriter(path)
    appends = [asyncio.create_task(log.append(b"%d" % n, n + 1, 10)) for n in range(20)]
    while not gate.groups:
        await asyncio.sleep(0.01)
    gate.open.set()
    assert await asyncio.gather(*appends) == [(n + 1) * (n + 2) // 2 for n in range(20)]
    assert gate.groups in ([1, 19], [20])
    page = await log.read(0, 1_000, 0)
    assert [record.body for record in page.records] == [b"%d" % n for n in range(20)]
    assert (await log.describe())["commits"] == len(gate.groups)
    await log.close()


async def test_groups_and_what_waits_are_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "_GROUP_BYTES", 100)
    monkeypatch.setattr(writer, "_WAITING_BYTES", 460)
    gate, log = Gate(monkeypatch), LogWriter(path)
    first = asyncio.create_task(log.append(b"x", 1, 10))
    while not gate.groups:
        await asyncio.sleep(0.01)
    sizes = (60, 40, 40, 300)
    others = [asyncio.create_task(log.append(bytes(size), 1, 10)) for size in sizes]
    await asyncio.sleep(0.05)
    with pytest.raises(Overloaded, match="441 bytes are waiting"):
        await log.append(bytes(20), 1, 10)
    gate.open.set()
    assert await asyncio.gather(first, *others) == [1, 2, 3, 4, 5]
    assert gate.groups == [1, 2, 1, 1]
    assert await log.append(bytes(400), 1, 10) == 6
    await log.close()


async def test_a_reader_waits_at_the_end(path: Path) -> None:
    log = LogWriter(path)
    started = time.monotonic()
    assert await log.read(0, 10, 0.1) == ([], 0)
    assert time.monotonic() - started >= 0.1
    waiting = asyncio.create_task(log.read(0, 10, 10))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    started = time.monotonic()
    await log.append(b"a", 2, 10)
    assert await waiting == ([LogRecord(2, 2, b"a")], 2)
    assert time.monotonic() - started < 5
    await log.close()


async def test_a_reader_that_starts_is_told_of_and_not_waited_for(path: Path) -> None:
    log = LogWriter(path)
    for body in (b"a", b"b", b"c"):
        await log.append(body, 1, 10)
    await log.read(3, 10, 0, A)
    await log.read(1, 10, 0, B._replace(starting=True))
    assert await log.applied(3, ["shard-0"], 0)
    state = await log.describe()
    assert [reader["replica"] for reader in state["readers"]] == ["a"]
    assert state["starting"] == [{"shard": "shard-0", "replica": "b", "applied": 1, "lag": 2}]
    await log.read(2, 10, 0, B)
    assert not await log.applied(3, ["shard-0"], 0.05)
    state = await log.describe()
    assert ([reader["replica"] for reader in state["readers"]], state["starting"]) == (["a", "b"], [])
    await log.close()


async def test_all_readers_of_all_shards_must_have_applied(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, shards = LogWriter(path), ["shard-0", "shard-1"]
    for body in (b"a", b"b"):
        await log.append(body, 1, 10)
    assert not await log.applied(1, shards, 0.05)  # nobody reads
    for reader in (A, C):
        await log.read(2, 10, 0, reader)
    assert await log.applied(2, shards, 0)
    await log.read(1, 10, 0, B)
    assert await log.applied(1, shards, 0)
    waiting = asyncio.create_task(log.applied(2, shards, 10))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await log.read(2, 10, 0, B)
    assert await waiting
    assert (await log.describe())["readers"] == [
        {"shard": "shard-0", "replica": "a", "applied": 2, "lag": 0},
        {"shard": "shard-0", "replica": "b", "applied": 2, "lag": 0},
        {"shard": "shard-1", "replica": "c", "applied": 2, "lag": 0},
    ]
    await log.append(b"c", 1, 10)
    monkeypatch.setattr(readers, "FORGET_S", 0.1)
    await asyncio.sleep(0.2)
    for reader in (A, C):
        await log.read(3, 10, 0, reader)
    assert await log.applied(3, shards, 0)  # b has gone
    assert len((await log.describe())["readers"]) == 2
    await log.close()


async def test_a_log_that_cannot_be_had_is_had_later(tmp_path: Path) -> None:
    (tmp_path / "disk").write_text("not mounted")
    log = LogWriter(tmp_path / "disk" / "updates.db")
    calls: list[Any] = [log.append(b"a", 1, 10), log.read(0, 10, 0), log.trim(1)]
    for call in calls:
        with pytest.raises(LogUnavailable, match=r"updates\.db: "):
            await call
    assert "File exists" in (await log.describe())["error"]
    (tmp_path / "disk").unlink()
    assert await log.append(b"a", 1, 10) == 1
    assert await log.read(0, 10, 0) == ([LogRecord(1, 1, b"a")], 1)
    await log.close()


async def test_a_writer_that_starts_again_without_its_disk_waits_for_it(tmp_path: Path) -> None:
    """An empty log in its place would number writes anew that replicas have, and lose them with the disk's return."""
    disk, store = tmp_path / "disk", tmp_path / "snapshots"
    store.mkdir()
    first = LogWriter(disk / "updates.db", snapshots=store)
    assert await first.append(b"a", 3, 10) == 3
    claim_store(store, await first.describe() | {"node": "10.0.0.1"})
    await first.close()
    disk.rename(tmp_path / "unmounted")
    disk.mkdir()
    again = LogWriter(disk / "updates.db", snapshots=store)
    calls: list[Any] = [again.append(b"b", 1, 10), again.read(3, 10, 0), again.trim(1)]
    for call in calls:
        with pytest.raises(LogUnavailable, match=r"updates\.db: not found"):
            await call
    assert not list(disk.iterdir())
    disk.rmdir()
    (tmp_path / "unmounted").rename(disk)
    assert await again.append(b"b", 1, 10) == 4
    await again.close()
    (store / CLAIM).write_text("{")
    with pytest.raises(LogUnavailable, match=r"log\.json: "):
        await LogWriter(disk / "updates.db", snapshots=store).append(b"c", 1, 10)
    LogStore(disk / "another.db").close()
    claim_store(tmp_path, {"identity": "abc", "path": str(disk), "node": "10.0.0.1"})
    told = await LogWriter(disk / "another.db", snapshots=tmp_path).describe()
    assert told["other"] and "is another log" in told["error"]


async def test_of_two_writers_the_older_stays_fenced(path: Path) -> None:
    older, newer = LogWriter(path), LogWriter(path)
    assert await older.append(b"a", 1, 10) == 1
    assert await newer.append(b"b", 1, 10) == 2
    for _ in range(2):
        with pytest.raises(LogFenced):
            await older.append(b"lost", 1, 10)
    assert (await older.describe())["fenced"] and not (await newer.describe())["fenced"]
    assert await newer.append(b"c", 1, 10) == 3
    assert [record.body for record in (await newer.read(0, 10, 0)).records] == [b"a", b"b", b"c"]
    await older.close()
    await newer.close()


async def test_an_append_has_its_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, log = Gate(monkeypatch), LogWriter(path)
    with pytest.raises(LogUnavailable, match=r"not on the disk after 0\.1 s; it may still get there"):
        await log.append(b"a", 1, 0.1)
    gate.open.set()
    assert await log.append(b"b", 1, 10) == 2
    await log.close()


async def test_closing_waits_for_a_read_that_was_given_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, read = LogWriter(path), LogStore.read
    await log.append(b"one", 1, 10)
    begun, go_on = threading.Event(), threading.Event()
    pages: list[LogPage] = []

    def wait(store: LogStore, after: int, limit: int) -> LogPage:
        begun.set()
        assert go_on.wait(PATIENCE_S)
        pages.append(read(store, after, limit))
        return pages[0]

    monkeypatch.setattr(LogStore, "read", wait)
    reading = asyncio.create_task(log.read(0, 10, 0))
    await asyncio.to_thread(begun.wait, 10)
    reading.cancel()
    closing = asyncio.create_task(log.close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    go_on.set()
    await closing
    assert pages == [LogPage([LogRecord(1, 1, b"one")], 1)]


async def test_a_full_log_says_so_and_not_where_it_lies(path: Path) -> None:
    log = LogWriter(path, max_bytes=1)
    with pytest.raises(LogFull, match=r"^the log holds") as full:
        await log.append(b"a", 1, 10)
    assert (full.value.status, full.value.code) == (503, "log_full")
    with pytest.raises(LogGap) as gap:
        await log.read(5, 10, 0)
    assert gap.value.message.startswith(f"{path.name}: ") and str(path.parent) not in gap.value.message
    await log.close()


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("/var/lib/u.db: disk I/O error", "u.db: disk I/O error"),
        ("/var/lib/u.db: [Errno 13] Permission denied: '/var/lib'", "u.db: [Errno 13] Permission denied: 'its folder'"),
        ("the log's writer is down", "the log's writer is down"),
    ],
)
def test_clients_are_not_told_where_the_log_lies(message: str, told: str) -> None:
    assert hide(message, "/var/lib/u.db") == told
