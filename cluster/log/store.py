"""The log's file: a SQLite database whose commits are on the disk before they are acknowledged."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple
from uuid import uuid4

from silverray.router.errors import LogFenced, LogFull, LogGap, LogUnavailable, OtherLog
from silverray.router.writes.log import LogPage, LogRecord

_FORMAT = 1
"""Goes up when older releases could not read the file; they refuse it then."""
_BUSY_S = 5.0
"""How long SQLite waits for another process's transaction, a trim being the longest: as long as a write's default
deadline, after which nobody waits."""
_PAGE_BYTES = 32 << 20
"""Two of the longest bodies by default. A page ends when it has so many, so that with the last body it holds half as
much again."""
_TABLES = """
CREATE TABLE IF NOT EXISTS records (seq INTEGER PRIMARY KEY, size INTEGER NOT NULL, body BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS state (format INTEGER NOT NULL, identity TEXT NOT NULL, epoch INTEGER NOT NULL,
                                  trimmed INTEGER NOT NULL, last INTEGER NOT NULL) STRICT;
"""


class LogState(NamedTuple):
    """What a log's file says of itself.

    Attributes:
        format: version of the file's form.
        identity: given to it when it was made, and to no other.
        epoch: number of times that it was opened; a writer of an earlier epoch is fenced.
        trimmed: number of the last write that may have been forgotten.
        last: number of the last write.
    """

    format: int
    identity: str
    epoch: int
    trimmed: int
    last: int


class LogReader:
    """A log's file as one who only reads sees it; its writer, if there is one, is neither fenced nor hindered.

    Args:
        path: the file.

    Raises:
        LogUnavailable: there is none, it cannot be read or is no log.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _named(path):
            uri = f"{path.absolute().as_uri()}?mode=ro"
            self._connection = sqlite3.connect(
                uri, timeout=_BUSY_S, isolation_level=None, check_same_thread=False, uri=True
            )
        try:
            _require_format(path, self.state())
        except BaseException:
            self.close()
            raise

    def read(self, after: int, limit: int) -> LogPage:
        """Read on from a position; the arguments, result and errors are those of `UpdateLog.read` without waiting.

        A page is bounded in bytes as well, so that long bodies do not fill the memory of who reads them.
        """
        with _named(self.path), _begun(self._connection, "BEGIN"):
            # Of the same moment as the records, so that a page without any is the log's end.
            state = _state(self._connection)
            if not state.trimmed <= after <= state.last:
                raise LogGap(f"{self.path}: expected a number from {state.trimmed} to {state.last}, got {after}")
            records: list[LogRecord] = []
            found = size = 0
            query = "SELECT seq, size, body FROM records WHERE seq > ? ORDER BY seq"
            with closing(self._connection.execute(query, (after,))) as rows:
                while found < limit and size < _PAGE_BYTES and (row := rows.fetchone()):
                    records.append(LogRecord(*row))
                    found, size = found + records[-1].size, size + len(records[-1].body)
        return LogPage(records, state.last)

    def state(self) -> LogState:
        """The file's state now."""
        with _named(self.path):
            return _state(self._connection)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


class LogStore:
    """The one writer's hold on a log's file; to open it is to fence every writer that has it open already.

    One thread may append and trim while another reads.

    Args:
        path: the file, made if need be.
        start: number of the last write that the snapshot includes; a new log goes on from there.
        identity: of the log that must be there: none is made, and no other one is opened. None takes any.
        max_bytes: how much the file may hold before nothing is appended any more; None is no bound. Room that trimming
            has freed does not count.

    Attributes:
        path: the file.
        epoch: this writer's.

    Raises:
        LogUnavailable: the file cannot be written or is no log.
        OtherLog: it is not the log that must be there; it is as it was.
        LogGap: the log ends before `start`, so it is not the one that the snapshot's writes came from.
    """

    def __init__(self, path: Path, start: int = 0, identity: str | None = None, max_bytes: int | None = None) -> None:
        self.path = path
        self._max_bytes = max_bytes
        with _named(path):
            if identity is not None and not path.exists():
                raise LogUnavailable(f"{path}: not found; is its disk there?")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = _connect(path)
            try:
                self.epoch = self._take_over(start, identity)
                self._reader = LogReader(path)
            except BaseException:
                self._writer.close()
                raise

    def append(self, bodies: Sequence[tuple[bytes, int]]) -> list[int]:
        """Append bodies, each with its number of writes, in one transaction: all of them or none.

        Returns:
            The number of each body's last write; by then all are on the disk.

        Raises:
            LogFenced: another writer has opened the file since.
            LogFull: the file holds as much as it may.
            LogUnavailable: the disk is full, read-only or broken; nothing was appended.
        """
        with self._transaction() as state:
            self._require_room(sum(len(body) for body, _ in bodies))
            seqs = list(accumulate((size for _, size in bodies), initial=state.last))[1:]
            rows = [(seq, size, body) for seq, (body, size) in zip(seqs, bodies, strict=True)]
            self._writer.executemany("INSERT INTO records VALUES (?, ?, ?)", rows)
            self._writer.execute("UPDATE state SET last = ?", (seqs[-1],))
        return seqs

    def read(self, after: int, limit: int) -> LogPage:
        """Read on from a position; see `LogReader.read`."""
        return self._reader.read(after, limit)

    def trim(self, keep_from: int) -> None:
        """Forget records whose writes all have lower numbers; their room is used again.

        Raises:
            LogFenced, LogUnavailable: as in `append`.
        """
        with self._transaction() as state:
            (last,) = self._writer.execute("SELECT max(seq) FROM records WHERE seq < ?", (keep_from,)).fetchone()
            self._writer.execute("DELETE FROM records WHERE seq < ?", (keep_from,))
            # A record that reaches over `keep_from` stays whole, and so do its first writes.
            self._writer.execute("UPDATE state SET trimmed = ?", (max(state.trimmed, last or 0),))

    def state(self) -> LogState:
        """The file's state now."""
        return self._reader.state()

    def close(self) -> None:
        """Close the file."""
        self._reader.close()
        self._writer.close()

    def _require_room(self, size: int) -> None:
        if self._max_bytes is None:
            return
        pages, free, page = (
            self._writer.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        held = (pages - free) * page
        if held + size > self._max_bytes:
            raise LogFull(
                f"the log holds {held:,} of at most {self._max_bytes:,} bytes (log.max_bytes), {size:,} more do not"
                " fit: publish with --from-live, remove older versions and serve the new one"
            )

    def _take_over(self, start: int, identity: str | None) -> int:
        self._writer.executescript(_TABLES)
        with _begun(self._writer, "BEGIN IMMEDIATE"):
            row = self._writer.execute("SELECT * FROM state").fetchone()
            if row is None:
                row = (_FORMAT, uuid4().hex, 0, start, start)
                self._writer.execute("INSERT INTO state VALUES (?, ?, ?, ?, ?)", row)
            state = LogState(*row)
            # All checks come before the epoch: a file that is not ours is left as it is.
            _require_format(self.path, state)
            if identity not in (None, state.identity):
                raise OtherLog(f"{self.path}: is another log than the one that must be there")
            if state.last < start:
                raise LogGap(f"{self.path}: ends at {state.last}, but the snapshot includes writes up to {start}")
            self._writer.execute("UPDATE state SET epoch = epoch + 1")
        return state.epoch + 1

    @contextmanager
    def _transaction(self) -> Iterator[LogState]:
        with _named(self.path), _begun(self._writer, "BEGIN IMMEDIATE"):
            # Read with the file locked: who opens it from here on waits, and fences this writer after its commit.
            state = _state(self._writer)
            if state.epoch != self.epoch:
                raise LogFenced(f"{self.path}: epoch {self.epoch} has ended, another writer began epoch {state.epoch}")
            yield state


def check_place(path: Path) -> None:
    """Refuse a path where no log can be kept; nothing is made there.

    Raises:
        LogUnavailable: the file, or its folder, or the nearest one that there is, cannot be written, or it is no log.
    """
    with _named(path):
        if path.exists():
            if not path.is_file():
                raise LogUnavailable(f"{path}: expected a file, got {'a folder' if path.is_dir() else 'a device'}")
            path.open("r+b").close()
            if path.stat().st_size:
                LogReader(path).close()
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        if not folder.is_dir():
            raise LogUnavailable(f"{path}: {folder} is no folder")
        TemporaryFile(dir=folder).close()


def _connect(path: Path) -> sqlite3.Connection:
    # Made before SQLite would make it, for this account alone; SQLite gives its other files the same mode.
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def _state(connection: sqlite3.Connection) -> LogState:
    return LogState(*connection.execute("SELECT * FROM state").fetchone())


def _require_format(path: Path, state: LogState) -> None:
    if state.format != _FORMAT:
        raise LogUnavailable(f"{path}: has format {state.format}; this version reads {_FORMAT}")


@contextmanager
def _begun(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite may have rolled back by itself
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turn what a file system or SQLite has to say into what the log's users know."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise LogUnavailable(f"{path}: {error}") from error
