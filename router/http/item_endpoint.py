"""The endpoint for writes."""

from __future__ import annotations

import asyncio
import time

from starlette.types import Receive, Scope, Send

from silverray.router.errors import WritesDisabled
from silverray.router.http.asgi import exchange
from silverray.router.http.body_reader import BodyReader
from silverray.router.http.codecs import Codec
from silverray.router.http.item_parsing import parse_items
from silverray.router.settings import RouterSettings
from silverray.router.writes.item_writer import ItemWriter
from silverray.router.writes.items_call import ItemsCall
from silverray.shard.live.writes import encode

_INLINE_BODY = 4 << 10
"""Three items of 128 dimensions as JSON, 0.05 ms of the event loop that searches share (decision 12.1); to a thread
and back takes about 0.1."""


class ItemsEndpoint:
    """Serves `POST /v1/items`.

    Bodies are bounded by their bytes in all, once they are there; the log's writer has a bound of its own behind that.
    Longer ones are decoded and checked in a thread, so that searches do not wait for them.

    Args:
        items: takes the writes; None refuses them.
        settings: limits.
    """

    def __init__(self, items: ItemWriter | None, settings: RouterSettings) -> None:
        self._items = items
        self._settings = settings
        self._reader = BodyReader(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        received = time.monotonic()

        async def answer(request_form: Codec, reply_form: Codec, body: bytes) -> bytes:
            items = self._writer()
            call, writes = await self._read(items, request_form, body)
            return reply_form.dumps((await items.write(call, writes, received)).to_document())

        # A page of any origin may have a browser send a body without a type, unasked.
        await exchange(scope, receive, send, self._reader, answer, self._writer, untyped=None)

    def _writer(self) -> ItemWriter:
        if self._items is None:
            raise WritesDisabled("this service takes no writes: its configuration names no log")
        return self._items

    async def _read(self, items: ItemWriter, form: Codec, body: bytes) -> tuple[ItemsCall, bytes]:
        def read() -> tuple[ItemsCall, bytes]:
            call = parse_items(form.decode(body), items.catalog, self._settings)
            return call, encode(call.writes)

        if len(body) <= _INLINE_BODY:
            return read()
        return await asyncio.get_running_loop().run_in_executor(None, read)
