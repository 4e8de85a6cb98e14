"""The endpoint for writes."""

from __future__ import annotations

import asyncio
import time

from starlette.types import Receive, Scope, Send

from silverray.router.errors import WritesDisabled
from silverray.router.exchange import exchange
from silverray.router.item_writer import ItemWriter
from silverray.router.items import ItemsCall, parse_items
from silverray.router.settings import RouterSettings
from silverray.router.wire import Codec
from silverray.shard.api import Overloaded
from silverray.shard.live.writes import encode

_MAX_OPEN = 32
_INLINE_BODY = 4 << 10


class ItemsEndpoint:
    """Serves `POST /v1/items`.

    Longer bodies are decoded and checked in a thread, so that searches do not wait for them.

    Args:
        items: takes the writes; None refuses them.
        settings: limits.
    """

    def __init__(self, items: ItemWriter | None, settings: RouterSettings) -> None:
        self._items = items
        self._settings = settings
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        received = time.monotonic()

        async def answer(request_form: Codec, reply_form: Codec, body: bytes) -> bytes:
            if self._items is None:
                raise WritesDisabled("this service takes no writes: its configuration names no log")
            if self._open > _MAX_OPEN:
                raise Overloaded(f"{_MAX_OPEN} bodies are being written already")
            call, writes = await self._read(self._items, request_form, body)
            return reply_form.dumps((await self._items.write(call, writes, received)).to_document())

        self._open += 1
        try:
            # A page of any origin may have a browser send a body without a type, unasked.
            await exchange(scope, receive, send, self._settings.max_body_bytes, answer, untyped=None)
        finally:
            self._open -= 1

    async def _read(self, items: ItemWriter, form: Codec, body: bytes) -> tuple[ItemsCall, bytes]:
        def read() -> tuple[ItemsCall, bytes]:
            call = parse_items(form.decode(body), items.catalog, self._settings)
            return call, encode(call.writes)

        if len(body) <= _INLINE_BODY:
            return read()
        return await asyncio.get_running_loop().run_in_executor(None, read)
