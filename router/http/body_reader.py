"""Reading the bodies of requests: each of a bounded length in bounded time, all of them in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from silverray.router.errors import BodyTimeout, BodyTooLarge
from silverray.router.settings import RouterSettings
from silverray.shard.api import Overloaded

_DIGITS = 20
"""As many as 2^64 has: a longer number is too large whatever the limit is, and reading thousands of digits takes
Python long."""


class BodyReader:
    """Reads bodies, and counts the bytes of those that are there and not answered yet.

    What a client has announced and not sent counts for nothing: a body that never comes takes no one's place.

    Args:
        settings: limits.
    """

    def __init__(self, settings: RouterSettings) -> None:
        self._longest = settings.max_body_bytes
        self._most = settings.max_waiting_bytes
        self._timeout_s = settings.body_timeout_s
        self._held = 0

    def check(self, headers: Mapping[bytes, bytes]) -> None:
        """Refuse a body by its headers, before any of it is read.

        Raises:
            BodyTooLarge: it is longer than any may be.
            Overloaded: with it too many bytes would wait.
        """
        length = headers.get(b"content-length", b"0")
        # More digits than any length has are not read: Python refuses thousands.
        if length.isdigit() and (len(length) > _DIGITS or int(length) > self._longest):
            shown = length[:_DIGITS].decode("latin-1")
            raise BodyTooLarge(f"expected at most {self._longest} bytes, got {shown}")
        self._check_room(int(length) if length.isdigit() else 0)

    @asynccontextmanager
    async def body(self, receive: Receive) -> AsyncIterator[bytes]:
        """Read a body, and hold it for as long as the context lasts.

        Raises:
            BodyTooLarge: it is longer than any may be.
            BodyTimeout: it was not there in time.
            Overloaded: with it too many bytes would wait.
            ClientDisconnect: the client has gone.
        """
        parts: list[bytes] = []
        size = 0
        try:
            more = True
            async with asyncio.timeout(self._timeout_s) as limit:
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientDisconnect
                    part = message.get("body", b"")
                    if size + len(part) > self._longest:
                        raise BodyTooLarge(f"expected at most {self._longest} bytes, got more")
                    self._check_room(len(part), own=size)
                    parts.append(part)
                    size += len(part)
                    self._held += len(part)
                    more = message.get("more_body", False)
            yield parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError:
            if not limit.expired():
                raise
            raise BodyTimeout(f"expected the whole body within {self._timeout_s:g} s, got {size} bytes") from None
        finally:
            self._held -= size

    def _check_room(self, size: int, own: int = 0) -> None:
        others = self._held - own
        if others and self._held + size > self._most:  # one body alone is always taken
            raise Overloaded(f"{others:,} bytes of other requests are waiting already")
