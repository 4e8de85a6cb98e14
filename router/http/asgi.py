"""One HTTP exchange in plain ASGI: a framework's request handling would cost more than a search."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from silverray.router.errors import BodyTimeout, UnsupportedMediaType, to_document
from silverray.router.http.body_reader import BodyReader
from silverray.router.http.codecs import JSON, Codec, reply_codec, request_codec
from silverray.router.http.headers import read_headers
from silverray.shard.api import Overloaded, SearchError

Answer = Callable[[Codec, Codec, bytes], Awaitable[bytes]]

_logger = logging.getLogger(__name__)

_RETRY_AFTER = (b"retry-after", b"%d" % Overloaded.RETRY_AFTER_S)
_CLOSE = (b"connection", b"close")


async def exchange(
    scope: Scope,
    receive: Receive,
    send: Send,
    reader: BodyReader,
    answer: Answer,
    check: Callable[[], Any] = lambda: None,
    *,
    untyped: Codec | None = JSON,
) -> None:
    """Read a request and reply to it; errors become replies, and a client that has gone gets none.

    What can be refused by the headers is refused before the body is asked for: the server passes over what of it still
    comes, and the connection stays of use.

    Args:
        scope: of the request.
        receive: gives its body.
        send: takes the reply.
        reader: reads the body.
        answer: makes the reply of the form of the body, the form that is wanted, and the body; may raise `SearchError`.
        check: called before the body is read; likewise.
        untyped: the form of a body without a type; None refuses it.
    """
    codec = JSON
    try:
        headers = read_headers(scope["headers"])
        accept = _text(headers, b"accept")
        codec = reply_codec(accept, JSON)
        form = request_codec(_text(headers, b"content-type"), untyped)
        _refuse_encoded(_text(headers, b"content-encoding"))
        codec = reply_codec(accept, form)
        check()
        reader.check(headers)
        async with reader.body(receive) as body:
            status, content = 200, await answer(form, codec, body)
    except SearchError as error:
        status, content = error.status, codec.dumps(to_document(error))
    except ClientDisconnect:
        return
    except Exception:
        _logger.exception("POST %s failed", scope["path"])
        status, content = 500, codec.dumps(to_document(SearchError("internal error")))
    reply = [(b"content-type", codec.media_type.encode()), (b"content-length", b"%d" % len(content))]
    if status == 503:
        reply.append(_RETRY_AFTER)
    if status == BodyTimeout.status:  # the rest of the body may never come
        reply.append(_CLOSE)
    await send({"type": "http.response.start", "status": status, "headers": reply})
    await send({"type": "http.response.body", "body": content})


def _refuse_encoded(encoding: str) -> None:
    # A few bytes may unpack to gigabytes, and a vector hardly shrinks: MessagePack bins are the way to short bodies.
    if encoding.strip().lower() not in ("", "identity"):
        message = f"compressed bodies are not read: expected none or identity, got {encoding[:100]!r}"
        raise UnsupportedMediaType(message, "Content-Encoding")


def _text(headers: dict[bytes, bytes], name: bytes) -> str:
    return headers.get(name, b"").decode("latin-1")
