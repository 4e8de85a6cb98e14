"""Waiting until shards have applied a write: one question a shard, however many wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection

_FIRST_PAUSE_S = 0.005
"""Doubled after each question up to the longest: most waits end with the first ones (decision 13.2)."""
_LONGEST_PAUSE_S = 0.04
"""Pauses between two questions to a shard: replicas follow the log within milliseconds, or are far behind."""
_ANSWER_S = 1.0
"""A question to a killed replica is never answered, and the next one goes to another. Shorter would give up one that
is busy."""

SeqOf = Callable[[str], Awaitable[int | None]]


class LagWatch:
    """Asks lagging shards how far they are for as long as somebody waits; belongs to one event loop.

    Args:
        seq_of: asks the shard of a name for the number of the last write that one of its replicas has applied; None
            where it does not say.
    """

    def __init__(self, seq_of: SeqOf) -> None:
        self._seq_of = seq_of
        self._waiting: dict[str, dict[asyncio.Future[None], int]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def reached(self, shards: Collection[str], seq: int, deadline: float) -> bool:
        """Wait until shards have said, from now on, that they have applied a number.

        Args:
            shards: their names.
            seq: the number.
            deadline: until when to wait, on the clock of `time.monotonic`.

        Returns:
            Whether they have; false when the time is up.
        """
        turns = [self._join(shard, seq) for shard in shards]
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                for turn in turns:
                    await turn
        except TimeoutError:
            return False
        finally:
            for turn in turns:
                turn.cancel()
        return True

    async def close(self) -> None:
        """Ask no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _join(self, shard: str, seq: int) -> asyncio.Future[None]:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if shard not in self._waiting:
            self._waiting[shard] = {}
            task = asyncio.create_task(self._watch(shard))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        waiting = self._waiting[shard]
        waiting[turn] = seq
        turn.add_done_callback(lambda turn: waiting.pop(turn, None))
        return turn

    async def _watch(self, shard: str) -> None:
        waiting = self._waiting[shard]
        pause_s = _FIRST_PAUSE_S
        try:
            while True:
                await asyncio.sleep(pause_s)
                # Nothing is awaited from here to `del`: who comes next begins another watch.
                if not waiting:
                    return
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                asked = dict(waiting)  # who comes meanwhile has been told otherwise just now, and waits for the next
                seq = await self._ask(shard)
                for turn, wanted in asked.items():
                    if seq is not None and wanted <= seq and not turn.done():
                        turn.set_result(None)
        finally:
            del self._waiting[shard]

    async def _ask(self, shard: str) -> int | None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await self._seq_of(shard)
        except TimeoutError:
            return None
