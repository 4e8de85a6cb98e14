"""Writes on their way to the log."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from silverray.router.errors import CatalogFull, LogUnavailable
from silverray.router.writes.counting import ItemCount
from silverray.router.writes.items_call import ItemError, ItemsCall
from silverray.router.writes.log import UpdateLog
from silverray.shard.live.writes import Upsert, Write

if TYPE_CHECKING:
    from silverray.shard.snapshot.catalog import Catalog


class WriteReply(NamedTuple):
    """What became of a body's items.

    Attributes:
        seq: number of the last accepted one; 0 if none was.
        accepted: how many are in the log.
        errors: the others.
        applied: whether every shard had applied them in time; None where nobody waited for that.
    """

    seq: int
    accepted: int
    errors: list[ItemError]
    applied: bool | None = None

    def to_document(self) -> dict[str, Any]:
        """The reply as it stands in a body."""
        document = {"seq": self.seq, "accepted": self.accepted, "errors": [asdict(error) for error in self.errors]}
        return document if self.applied is None else document | {"applied": self.applied}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> WriteReply:
        """Undo `to_document`."""
        errors = [ItemError(**error) for error in document["errors"]]
        return cls(document["seq"], document["accepted"], errors, document.get("applied"))


class ItemWriter:
    """Appends checked writes to the log and waits for the shards where that is asked for.

    Args:
        catalog: what the writes are about.
        log: takes them.
        shards: names of the shards that must have applied them, as `Reader.shard` has them.
        count: knows how many items there are; None bounds them not at all.
        max_items: how many there may be. They are counted once a second, so that a little more come in before that is
            noticed.
    """

    def __init__(
        self,
        catalog: Catalog,
        log: UpdateLog,
        shards: Sequence[str],
        count: ItemCount | None = None,
        max_items: int | None = None,
    ) -> None:
        self.catalog = catalog
        self._log = log
        self._shards = tuple(shards)
        self._count = count
        self._max_items = max_items
        self._bodies = 0
        self._accepted = 0
        self._refused = 0
        self._failed = 0

    async def write(self, call: ItemsCall, body: bytes, received: float) -> WriteReply:
        """Write a body's good items.

        Args:
            call: what was asked for.
            body: its writes, encoded.
            received: when it was received, on the clock of `time.monotonic`.

        Returns:
            What became of them; the accepted ones are on the disk of the log.

        Raises:
            LogUnavailable: the log could not take them in time. Sending them again does no harm.
            Overloaded: too much is waiting to be written.
            CatalogFull: there are as many items as there may be, and these may be more.
        """
        deadline = received + call.timeout_s
        self._bodies += 1
        self._refused += len(call.errors)
        if not call.writes:
            return WriteReply(0, 0, call.errors, True if call.wait else None)
        count = len(call.writes)
        try:
            await self._require_room(call.writes)
            seq = await self._log.append(body, count, max(0.0, deadline - time.monotonic()))
        # Also where the caller has gone: nobody knows then whether they are in the log.
        except BaseException:
            self._failed += count
            raise
        self._accepted += count
        return WriteReply(seq, count, call.errors, await self._applied(seq, deadline) if call.wait else None)

    def to_document(self) -> dict[str, Any]:
        """Counts of bodies and of their items, as in a status reply."""
        return {
            "bodies": self._bodies,
            "accepted": self._accepted,
            "refused": self._refused,
            "failed": self._failed,
        }

    async def _require_room(self, writes: Sequence[Write]) -> None:
        if self._count is None or self._max_items is None or not any(isinstance(one, Upsert) for one in writes):
            return
        items = await self._count.latest()
        if items is not None and items >= self._max_items:
            raise CatalogFull(
                f"there are {items:,} items, at most {self._max_items:,} may be (log.max_items): expected patches and"
                " deletes"
            )

    async def _applied(self, seq: int, deadline: float) -> bool:
        try:
            return await self._log.applied(seq, self._shards, max(0.0, deadline - time.monotonic()))
        except LogUnavailable:  # the writes are in the log all the same
            return False
