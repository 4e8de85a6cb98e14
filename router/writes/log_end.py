"""How far the update log goes, as the router knows it: a search may ask for no write that has not been made."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from silverray.router.errors import LogUnavailable
from silverray.router.writes.log import UpdateLog
from silverray.shard.api import InvalidRequest

_ASK_S = 0.25
"""How long a search waits to learn where the log ends; what cannot be learned refuses nothing."""


class LogEnd:
    """The highest number of a write that is known to have been made; belongs to one event loop.

    Args:
        seq: number of the last write that the served snapshot includes.
        log: asked where somebody wants a higher number than is known; None where no write can be made.
    """

    def __init__(self, seq: int, log: UpdateLog | None = None) -> None:
        self._known = seq
        self._log = log
        self._asking = asyncio.Lock()
        self._questions = 0

    async def refuse_beyond(self, seqs: Iterable[int]) -> dict[int, InvalidRequest]:
        """Find the numbers that no write has.

        Args:
            seqs: what searches ask for (`min_seq`).

        Returns:
            By place in `seqs`, why it is refused.
        """
        beyond = {place: seq for place, seq in enumerate(seqs) if seq > self._known}
        if not beyond or (self._log is not None and not await self._learn(self._log)):
            return {}
        what = "the log" if self._log is not None else "the snapshot, which has no log,"
        return {
            place: InvalidRequest(
                f"{what} has not reached sequence number {seq}: expected at most {self._known}", "min_seq"
            )
            for place, seq in beyond.items()
            if seq > self._known
        }

    async def _learn(self, log: UpdateLog) -> bool:
        """Ask the log, or wait for an answer to a question that was put after now; whether there was one."""
        before = self._questions
        try:
            async with asyncio.timeout(_ASK_S), self._asking:
                if self._questions == before:
                    self._questions += 1
                    last = (await log.describe()).get("last")
                    if last is None:
                        return False
                    self._known = max(self._known, int(last))
        except (TimeoutError, LogUnavailable):
            return False
        return True
