"""Following a log: a replica's way to the state that the log describes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from silverray.cluster.log.entries import read_entries
from silverray.router.writes.log import LogPage, Reader, UpdateLog
from silverray.shard.live.writes import Entry

_logger = logging.getLogger(__name__)

_LIMIT = 2_000
"""Writes from which a page ends. They take about 50 ms (decision 10.2), after which the log hears how far the replica
is."""
_POLL_S = 1.0
"""News wakes a reader at once; that it asks again each second shows the writer that it is there
(`readers.FORGET_S`)."""
_FIRST_PAUSE_S = 0.05
"""Doubled after each failure: soon back after a moment's trouble, and no busy loop."""
_LONGEST_PAUSE_S = 2.0
"""How much later than the log a replica is back; all replicas ask a writer that has just come up."""
_FAILURES = 5
"""In a row, about 2 s: then the log counts as down, and must not take searches with it (decision 12.8). Fewer would
let a moment's trouble bring a stale replica up."""


class LogFollower:
    """Reads a log from where a replica is, and hands over what comes, in order and each entry once.

    Whatever fails is tried again for ever, after pauses that double from 50 ms to 2 s; the replica serves what it has
    meanwhile. So a record that cannot be read stops it: nothing that was acknowledged is passed over. Belongs to one
    event loop; entries are decoded and applied in another thread.

    Args:
        log: what to follow.
        reader: who follows.
        apply: takes entries that come right after those before; may block. Where it raises, it is given the same
            entries again, and skips those that it had applied.
        applied: number of the last write that the replica has already.
    """

    def __init__(self, log: UpdateLog, reader: Reader, apply: Callable[[Sequence[Entry]], None], applied: int) -> None:
        self._log = log
        self._reader = reader
        self._apply = apply
        self._applied = applied
        self._last: int | None = None
        self._error: str | None = None
        self._failures = 0  # in a row
        self._near = False
        self._caught_up = False
        self._settled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def applied(self) -> int:
        """Number of the last write that was applied."""
        return self._applied

    def start(self) -> None:
        """Begin to follow."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Stop; what is being applied is applied to its end."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def settled(self) -> bool:
        """Wait until the replica has caught up, and the log knows it as a reader, or cannot for the time being.

        Returns:
            Whether it has caught up.
        """
        await self._settled.wait()
        return self._caught_up

    def describe(self) -> dict[str, Any]:
        """How far the replica is, for a status reply; `lag` is None until the log has been seen."""
        return {
            "applied": self._applied,
            "lag": None if self._last is None else self._last - self._applied,
            "failures": self._failures,
            "error": self._error,
        }

    async def _follow(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._step()
            except Exception as error:
                self._note(error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                self._error, self._failures, pause_s = None, 0, _FIRST_PAUSE_S

    async def _step(self) -> None:
        """Read and apply one page."""
        # On its way to the end it must not hold up `UpdateLog.applied`.
        known = self._reader._replace(starting=not self._near)
        wait_s = _POLL_S if self._caught_up else 0.0
        page = await self._log.read(self._applied, _LIMIT, wait_s, known)
        self._last = page.last
        if page.records:
            applying = asyncio.ensure_future(asyncio.to_thread(self._apply_page, page))
            try:
                # Its thread cannot be stopped: it must be done when `stop` returns, and nothing may follow it unseen.
                await asyncio.shield(applying)
            except asyncio.CancelledError:
                await asyncio.wait([applying])
                if isinstance(error := applying.exception(), Exception):
                    self._note(error)
                raise
        if self._applied >= page.last:
            # Only by this read the log knows it as a reader whom writes wait for.
            if not known.starting:
                self._caught_up = True
                self._settled.set()
            self._near = True

    def _apply_page(self, page: LogPage) -> None:
        for record in page.records:
            self._apply(read_entries(record, self._applied))
            # Only then: a record that fails on its way is read again.
            self._applied = record.seq

    def _note(self, error: Exception) -> None:
        self._failures += 1
        if self._failures == _FAILURES:
            self._settled.set()
        text = f"{type(error).__name__}: {error}"
        if text != self._error:
            _logger.warning("updates of %s stand at %s: %s", self._reader.shard, self._applied, text, exc_info=error)
        self._error = text
