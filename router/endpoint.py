"""The search endpoint, in plain ASGI: a framework's request handling would cost more than a search."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from silverray.router.errors import BodyTooLarge, to_document
from silverray.router.parsing import SearchCall, parse_rank, parse_search
from silverray.router.router import Router
from silverray.router.wire import JSON, Codec, encode_outcomes, encode_ranking, reply_codec, request_codec
from silverray.shard.api import InvalidRequest, Overloaded, SearchError, SearchReply, SearchRequest

_logger = logging.getLogger(__name__)

_INLINE_BODY = 64 << 10
_INLINE_REPLY_ITEMS = 2_000
_RETRY_AFTER = (b"retry-after", b"%d" % Overloaded.RETRY_AFTER_S)


class SearchEndpoint:
    """Serves `POST /v1/search`.

    A request's deadline counts from when its headers arrived. Long bodies and replies are decoded and encoded
    in a thread, so that they do not hold up the others.

    Args:
        router: answers the searches.
    """

    def __init__(self, router: Router) -> None:
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        received = time.monotonic()
        headers = dict(scope["headers"])
        codec = reply_codec(_text(headers, b"accept"), JSON)
        deadline: float | None = None
        try:
            request_form = request_codec(_text(headers, b"content-type"))
            codec = reply_codec(_text(headers, b"accept"), request_form)
            body = await self._read(headers, receive)
            call, requests = await self._admit(request_form, codec, body)
            deadline = received + max(request.timeout_s or 0.0 for request in requests)
            outcomes = await self._router.answer(requests, call.wheres, received)
            status, content = 200, await _encode(outcomes, codec, call)
        except SearchError as error:
            status, content = error.status, codec.dumps(to_document(error))
        except ClientDisconnect:
            return
        except Exception:
            _logger.exception("a search failed")
            status, content = 500, codec.dumps(to_document(SearchError("internal error")))
        await _send(send, status, codec, content)
        if deadline is not None:
            self._router.metrics.left(time.monotonic(), received, deadline)

    async def _read(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        limit = self._router.settings.max_body_bytes
        length = _text(headers, b"content-length")
        if length.isdecimal() and int(length) > limit:
            raise BodyTooLarge(f"expected at most {limit} bytes, got {length}")
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise BodyTooLarge(f"expected at most {limit} bytes, got more")
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _admit(
        self, request_form: Codec, reply_form: Codec, body: bytes
    ) -> tuple[SearchCall, list[SearchRequest]]:
        try:
            if len(body) <= _INLINE_BODY:
                call = self._parse(request_form, body)
            else:
                call = await asyncio.get_running_loop().run_in_executor(None, self._parse, request_form, body)
            if call.columns and not reply_form.columnar:
                raise InvalidRequest("a columnar reply needs Accept: application/msgpack", "columns")
            requests: list[SearchRequest] = []
            for entry in await self._router.admit(call.requests, call.wheres):
                if isinstance(entry, SearchError):
                    raise entry
                requests.append(entry)
        except SearchError as error:
            self._router.metrics.answered(error)
            raise
        return call, requests

    def _parse(self, codec: Codec, body: bytes) -> SearchCall:
        return parse_search(codec.decode(body), self._router.catalog.dimension, self._router.settings)


class RankEndpoint(SearchEndpoint):
    """Serves `POST /v1/rank`, likewise: given items are judged for a user, not searched."""

    def _parse(self, codec: Codec, body: bytes) -> SearchCall:
        catalog = self._router.catalog
        return parse_rank(codec.decode(body), catalog.dimension, catalog.id_type, self._router.settings)


async def _encode(outcomes: Sequence[SearchReply | SearchError], codec: Codec, call: SearchCall) -> bytes:
    errors = [outcome for outcome in outcomes if isinstance(outcome, SearchError)]
    for error in errors:
        if error.status < 500 or len(errors) == len(outcomes):
            raise error
    items = sum(len(outcome.keys) for outcome in outcomes if isinstance(outcome, SearchReply))

    def encode() -> bytes:
        if call.ids and isinstance(outcomes[0], SearchReply):
            return encode_ranking(outcomes[0], call.ids, codec)
        return encode_outcomes(outcomes, codec, alone=call.alone, columns=call.columns)

    if items <= _INLINE_REPLY_ITEMS:
        return encode()
    return await asyncio.get_running_loop().run_in_executor(None, encode)


async def _send(send: Send, status: int, codec: Codec, content: bytes) -> None:
    headers = [(b"content-type", codec.media_type.encode()), (b"content-length", b"%d" % len(content))]
    if status == 503:
        headers.append(_RETRY_AFTER)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def _text(headers: dict[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1")
