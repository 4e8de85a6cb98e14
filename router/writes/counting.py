"""How many items there are now."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

_FRESH_S = 1.0
"""How old a number may be. Shards follow the log within moments; to ask all of them oftener would cost searches."""


class ItemCount:
    """Asks the shards how many items they hold, at most once a second; belongs to one event loop.

    Args:
        ask: asks them; None where one does not tell.
    """

    def __init__(self, ask: Callable[[], Awaitable[int | None]]) -> None:
        self._ask = ask
        self._asking: asyncio.Task[None] | None = None
        self._said: int | None = None
        self._last: int | None = None
        self._expires: float | None = None

    async def now(self) -> int | None:
        """The number of items; None while a shard does not tell."""
        if asking := self._refreshed():
            # The question is everybody's: who gives up must not end it.
            await asyncio.shield(asking)
        return self._said

    async def latest(self) -> int | None:
        """The last number that was told, without waiting for a newer one: a silent shard must not hold up writes."""
        if self._expires is None:
            await self.now()
        else:
            self._refreshed()
        return self._last

    def _refreshed(self) -> asyncio.Task[None] | None:
        """What asks for a newer number, if one is needed."""
        if self._asking is None and (self._expires is None or time.monotonic() >= self._expires):
            self._asking = asyncio.create_task(self._refresh())
        return self._asking

    async def _refresh(self) -> None:
        try:
            self._said = await self._ask()
            self._last = self._last if self._said is None else self._said
        finally:
            # After a failure too: shards that are down must not be asked for every write.
            self._expires = time.monotonic() + _FRESH_S
            self._asking = None
