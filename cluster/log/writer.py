"""The single writer of a log: it commits in groups, and wakes those who wait at the log's end."""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from silverray.cluster.log.claim import read_claim
from silverray.cluster.log.readers import Readers
from silverray.cluster.log.store import LogStore
from silverray.cluster.strict_yaml import ConfigError
from silverray.router.errors import LogUnavailable, OtherLog
from silverray.router.writes.log import LogPage, Reader
from silverray.shard.api import Overloaded

_GROUP_BYTES = 32 << 20
"""Two of the longest bodies by default: many usual ones share a sync, and none waits for more than a fraction of a
second of the disk's time."""
_WAITING_BYTES = 128 << 20
"""Four such groups: what waits longer is late by its deadline. Routers bound their own; this bounds all of them
together."""

_logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class _Append(NamedTuple):
    body: bytes
    size: int
    done: asyncio.Future[int]


class LogWriter:
    """An `UpdateLog` over a file; belongs to one event loop.

    Bodies that arrive while others are being written wait, and are committed together: one wait for the disk serves
    them all. The file is opened at the first call that can, so that a log that cannot be had harms nobody else.

    Args:
        path: the file; see `LogStore`.
        start: likewise.
        snapshots: the store whose updates are in the log. Once it says which log that is, no other one is opened or
            made in its place: a writer that starts again where the log's disk is missing must wait for the disk.
        max_bytes: how much the records may take before writes are refused; None is no bound.
    """

    def __init__(self, path: Path, start: int = 0, snapshots: Path | None = None, max_bytes: int | None = None) -> None:
        self._path = path
        self._start = start
        self._snapshots = snapshots
        self._max_bytes = max_bytes
        self._store: LogStore | None = None
        self._opening = asyncio.Lock()
        self._writing = ThreadPoolExecutor(max_workers=1, thread_name_prefix="log-write")
        self._reading = ThreadPoolExecutor(max_workers=1, thread_name_prefix="log-read")
        self._waiting: list[_Append] = []
        self._waiting_bytes = 0
        self._committing: asyncio.Task[None] | None = None
        self._readers = Readers()
        self._news = _Bell()
        self._moves = _Bell()
        self._commits = 0

    async def append(self, body: bytes, size: int, timeout_s: float) -> int:
        """Append writes; see `UpdateLog.append`."""
        if self._waiting_bytes + len(body) > _WAITING_BYTES:
            raise Overloaded(f"{self._waiting_bytes:,} bytes are waiting to be written to the log already")
        append = _Append(body, size, asyncio.get_running_loop().create_future())
        self._waiting.append(append)
        self._waiting_bytes += len(body)
        # One task for all: the next group gathers while it waits for the disk.
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_all())
        try:
            return await asyncio.wait_for(append.done, timeout_s)
        except TimeoutError:
            message = f"{self._path.name}: not on the disk after {timeout_s:.3g} s; it may still get there"
            raise LogUnavailable(message) from None
        except LogUnavailable as error:
            raise self._told(error) from error

    async def read(self, after: int, limit: int, timeout_s: float, reader: Reader | None = None) -> LogPage:
        """Read on from a position; see `UpdateLog.read`."""
        deadline = time.monotonic() + timeout_s
        if reader is not None:
            # By asking for what comes next it says that it has applied what came before.
            self._readers.note(reader, after)
            self._moves.ring()
        while True:
            # Taken before the read: what is committed during it must wake this reader too.
            news = self._news.next
            try:
                store = await self._opened()
                page = await self._in(self._reading, store.read, after, limit)
            except LogUnavailable as error:
                raise self._told(error) from error
            if page.records or not await _happens(news, deadline):
                return page

    async def applied(self, seq: int, shards: Sequence[str], timeout_s: float) -> bool:
        """Wait until replicas have applied a number; see `UpdateLog.applied`."""
        deadline = time.monotonic() + timeout_s
        while True:
            # Taken before the look, likewise.
            move = self._moves.next
            if self._readers.have_applied(seq, shards):
                return True
            if not await _happens(move, deadline):
                return False

    async def trim(self, keep_from: int) -> None:
        """Forget old records; see `UpdateLog.trim`."""
        store = await self._opened()
        await self._in(self._writing, store.trim, keep_from)

    async def describe(self) -> dict[str, Any]:
        """The log's file, numbers, commits of this writer, and readers.

        Or, where the log cannot be had, the file, why, and whether it is another log.
        """
        try:
            store = await self._opened()
            state = await self._in(self._reading, store.state)
        except LogUnavailable as error:
            return {"path": str(self._path), "error": error.message, "other": isinstance(error, OtherLog)}
        return {
            "path": str(self._path),
            "identity": state.identity,
            "epoch": store.epoch,
            "fenced": state.epoch != store.epoch,
            "trimmed": state.trimmed,
            "last": state.last,
            "commits": self._commits,
            "readers": self._readers.describe(state.last),
            "starting": self._readers.describe(state.last, starting=True),
        }

    async def close(self) -> None:
        """Write what waits and close the file, once nothing uses it: calls that were given up run to their ends."""
        if self._committing is not None:
            await self._committing
        await asyncio.to_thread(self._reading.shutdown)
        await asyncio.to_thread(self._writing.shutdown)
        if self._store is not None:
            self._store.close()

    async def _commit_all(self) -> None:
        try:
            while self._waiting:
                await self._commit(self._group())
        finally:
            # Nothing was awaited since the list was seen empty, so that nobody has put something there in vain.
            self._committing = None

    def _group(self) -> list[_Append]:
        """Take the bodies that are written next: as many as fit, at least one."""
        sizes = accumulate(len(append.body) for append in self._waiting)
        count = max(1, bisect_right(list(sizes), _GROUP_BYTES))
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        return group

    async def _commit(self, group: list[_Append]) -> None:
        try:
            store = await self._opened()
            bodies = [(append.body, append.size) for append in group]
            seqs = await self._in(self._writing, store.append, bodies)
        except Exception as error:
            for append in group:
                if not append.done.done():
                    append.done.set_exception(error)
        else:
            self._commits += 1
            for append, seq in zip(group, seqs, strict=True):
                # Otherwise its caller has given up; the writes are in the log all the same.
                if not append.done.done():
                    append.done.set_result(seq)
            self._news.ring()
        finally:
            self._waiting_bytes -= sum(len(append.body) for append in group)

    async def _opened(self) -> LogStore:
        # Two that open the file at once would fence each other.
        async with self._opening:
            if self._store is None:
                self._store = await self._in(self._writing, self._open)
            return self._store

    def _open(self) -> LogStore:
        try:
            claim = None if self._snapshots is None else read_claim(self._snapshots)
        except ConfigError as error:
            raise LogUnavailable(str(error)) from None
        return LogStore(self._path, self._start, claim and claim.identity, self._max_bytes)

    def _told(self, error: LogUnavailable) -> LogUnavailable:
        """An error as clients and replicas are told it; where the log's file lies stands in this process's log only."""
        _logger.warning("%s", error.message)
        return type(error)(hide(error.message, str(self._path)))

    async def _in(self, thread: ThreadPoolExecutor, work: Callable[..., Result], *args: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(thread, work, *args)


def hide(message: str, path: str) -> str:
    """A message with the name of the log's file, but not where it lies."""
    folder = str(Path(path).parent)
    return message.replace(f"{folder}/", "").replace(folder, "its folder") if len(folder) > 1 else message


class _Bell:
    """Wakes all who wait for its next ring."""

    def __init__(self) -> None:
        self.next = asyncio.Event()

    def ring(self) -> None:
        self.next.set()
        # Who comes from now on waits for the next ring.
        self.next = asyncio.Event()


async def _happens(event: asyncio.Event, deadline: float) -> bool:
    """Wait for an event; false when the time is up first."""
    try:
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            await event.wait()
    except TimeoutError:
        return False
    return True
