"""What routers and replicas ask of the update log, whatever keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol


class LogRecord(NamedTuple):
    """Writes that were appended together, numbered one by one.

    Attributes:
        seq: number of the last of them.
        size: how many there are, so that the first has the number `seq - size + 1`.
        body: what was appended.
    """

    seq: int
    size: int
    body: bytes


class LogPage(NamedTuple):
    """A part of the log, in order.

    Attributes:
        records: those that there are; none at the log's end.
        last: number of the last write in the log.
    """

    records: list[LogRecord]
    last: int


class Reader(NamedTuple):
    """Who reads: a replica and the shard that it is of.

    Attributes:
        shard: name of the shard's application.
        replica: name of the replica.
        starting: whether it has yet to catch up; `UpdateLog.applied` does not wait for it.
    """

    shard: str
    replica: str
    starting: bool = False


class UpdateLog(Protocol):
    """A durable sequence of writes, numbered from 1 without a gap.

    Every method raises `LogUnavailable` where the log cannot do what is asked.
    """

    async def append(self, body: bytes, size: int, timeout_s: float) -> int:
        """Append writes that belong together; returns once they are on the disk.

        Args:
            body: the writes, in the form that replicas decode.
            size: how many they are, at least 1.
            timeout_s: how long it may take. What could not be appended in time may still be.

        Returns:
            The number of the last of them.

        Raises:
            Overloaded: too much is waiting to be written.
        """
        ...

    async def read(self, after: int, limit: int, timeout_s: float, reader: Reader | None = None) -> LogPage:
        """Read on from a position, waiting a while where there is nothing yet.

        Args:
            after: number of the last write that is not wanted.
            limit: number of writes from which on no further record is added.
            timeout_s: how long to wait at the log's end.
            reader: who has applied all up to `after`; None leaves no trace.

        Returns:
            The next records; the first may begin at or before `after`.

        Raises:
            LogGap: `after` was trimmed, or lies beyond the end.
        """
        ...

    async def applied(self, seq: int, shards: Sequence[str], timeout_s: float) -> bool:
        """Wait until every replica that reads for these shards, at least one each, has applied a number.

        Returns:
            Whether they have; false when the time is up.
        """
        ...

    async def trim(self, keep_from: int) -> None:
        """Forget records whose writes all have lower numbers."""
        ...

    async def describe(self) -> dict[str, Any]:
        """The log's state, for a status reply; with an entry `error` where it cannot be had."""
        ...
