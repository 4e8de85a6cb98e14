"""Clients of a router's HTTP interface."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from types import TracebackType
from typing import Any

import httpx
import numpy as np

from silverray.router.errors import Unavailable, from_document
from silverray.router.http.codecs import JSON, MESSAGE_PACK, Codec
from silverray.router.writes.item_writer import WriteReply
from silverray.shard.api import (
    Coverage,
    DeadlineExceeded,
    InvalidRequest,
    SearchError,
    SearchReply,
    SearchRequest,
    TaskScores,
    shown,
)
from silverray.shard.arguments import float32_array
from silverray.shard.live.writes import Delete, Patch, Upsert, Write
from silverray.shard.schema.keys import hash_texts

WRITE_S = 5.0
"""Time for a write that names none, which is the server's too; its own constant, as a client loads no server."""
_MAX_QUERIES = 256
"""What a service takes in a body by default (`limits.max_queries`); with more, it would refuse the body."""
_NETWORK_S = 5.0
"""Time on the way, beside the request's own: a server that is late says so itself, which tells more than a time-out
here."""
_LONGEST_S = 60.0
"""The longest deadline that a service allows by default (`limits.max_deadline_ms`): who names none waits as long as
it may."""


class HttpSearcher:
    """A `Searcher` over HTTP, in MessagePack.

    Args:
        url: where the router listens, such as `http://127.0.0.1:8000`.
        transport: of the HTTP client; None for the network.

    Raises:
        InvalidRequest: one of them is none.

    Example:
        async with HttpSearcher("http://127.0.0.1:8000") as searcher:
            (reply,) = await searcher.search([SearchRequest(vectors=vectors, k=10)])
    """

    def __init__(self, url: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        headers = {"content-type": MESSAGE_PACK.media_type, "accept": MESSAGE_PACK.media_type}
        _check_transport(transport, httpx.AsyncBaseTransport)
        self._client = httpx.AsyncClient(base_url=_checked(url), headers=headers, transport=transport)

    async def __aenter__(self) -> HttpSearcher:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchReply | SearchError]:
        """Answer a batch; see `Searcher`.

        Requests travel 256 at a time. One without a time-out gets a minute.

        Raises:
            SearchError: of the same class as the server's. A wrong request fails the whole batch, and `where`
                says which it was.
        """
        starts = range(0, len(requests), _MAX_QUERIES)
        parts = await asyncio.gather(*(self._search(requests[s : s + _MAX_QUERIES], s) for s in starts))
        return [outcome for part in parts for outcome in part]

    async def write(self, writes: Sequence[Write], *, wait: bool = False, timeout_s: float = WRITE_S) -> WriteReply:
        """Write up to 10,000 items, each id once.

        Args:
            writes: what to write; their field values are those of JSON, or dates.
            wait: whether to wait until every shard has applied them.
            timeout_s: how long it may take.

        Returns:
            What became of them. An item that is wrong is among its errors, where `index` counts within its kind.

        Raises:
            SearchError: of the same class as the server's: `LogUnavailable` where nothing is known to be written.
        """
        body = {**_to_items(writes), "wait": wait, "deadline_ms": timeout_s * 1e3}
        response, document = await self._post("/v1/items", body, timeout_s)
        if response.status_code == 200 and isinstance(document, dict):
            return WriteReply.from_document(document)
        raise from_document(document, response.status_code)

    async def _search(self, requests: Sequence[SearchRequest], start: int) -> list[SearchReply | SearchError]:
        body = {"queries": [_to_query(request) for request in requests], "columns": True}
        longest = max(_LONGEST_S if request.timeout_s is None else request.timeout_s for request in requests)
        response, document = await self._post("/v1/search", body, longest)
        if response.status_code == 200 and isinstance(document, dict):
            return [_to_outcome(result) for result in document["results"]]
        failure = from_document(document, response.status_code)
        if len(requests) == 1 and failure.status >= 500:
            return [failure]
        failure.where = _shifted(failure.where, start)
        raise failure

    async def _post(self, path: str, body: Mapping[str, Any], timeout_s: float) -> tuple[httpx.Response, Any]:
        content = _encoded(MESSAGE_PACK.dumps, body)
        try:
            response = await self._client.post(path, content=content, timeout=httpx.Timeout(timeout_s + _NETWORK_S))
        except httpx.TimeoutException as error:
            raise DeadlineExceeded(f"the server did not answer in time ({type(error).__name__})") from None
        except httpx.TransportError as error:
            raise Unavailable(f"{self._client.base_url}: the server cannot be reached: {error}") from None
        return response, _document(response, MESSAGE_PACK)


def _shifted(where: str | None, start: int) -> str | None:
    """A path in a part of a batch as a path in the batch."""
    return where and re.sub(r"^queries\[(\d+)\]", lambda place: f"queries[{int(place[1]) + start}]", where)


class SearchClient:
    """A blocking client that speaks JSON bodies as they are documented; for scripts and command lines.

    Args:
        url: where the router listens.
        transport: of the HTTP client; None for the network.

    Raises:
        InvalidRequest: one of them is none.

    Example:
        with SearchClient("http://127.0.0.1:8000") as client:
            document = client.search({"vector": [0.1, 0.2], "k": 10})
    """

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        _check_transport(transport, httpx.BaseTransport)
        self._client = httpx.Client(
            base_url=_checked(url), headers={"content-type": JSON.media_type}, transport=transport
        )

    def __enter__(self) -> SearchClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def search(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Post a body to `/v1/search` and return the reply's document.

        Raises:
            SearchError: of the same class as the server's, or `Unavailable` when there is no server.
        """
        document = self._ask("POST", "/v1/search", body)
        if not any(isinstance(document.get(key), list) for key in ("items", "results")):
            raise from_document(document, 200)
        return document

    def rank(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Post a body to `/v1/rank` and return the reply's document.

        Raises:
            SearchError: as in `search`.
        """
        return self._ask("POST", "/v1/rank", body)

    def write(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Post a body to `/v1/items` and return the reply's document.

        Raises:
            SearchError: as in `search`.
        """
        return self._ask("POST", "/v1/items", body)

    def get(self, path: str, *keys: str) -> dict[str, Any]:
        """Get a document, such as `/v1/status` or `/v1/schema`.

        Args:
            path: where it is.
            keys: what it must have; whatever answers without is no router.

        Raises:
            SearchError: as in `search`.
        """
        document = self._ask("GET", path, None)
        if not document.keys() >= set(keys):
            raise from_document(document, 200)
        return document

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        content = None if body is None else _encoded(_json, body)
        timeout_s = _NETWORK_S if body is None else _longest_s(body) + _NETWORK_S  # reports wait for nothing
        try:
            response = self._client.request(method, path, content=content, timeout=timeout_s)
        except httpx.TransportError as error:
            raise Unavailable(f"{self._client.base_url}: the server cannot be reached: {error}") from None
        document = _document(response, JSON)
        if response.status_code != 200 or not isinstance(document, dict):
            raise from_document(document, response.status_code)
        return document


def _checked(url: str) -> str:
    """A service's address.

    Raises:
        InvalidRequest: it is none.
    """
    try:
        parts = httpx.URL(url)
    except (TypeError, httpx.InvalidURL):
        parts = httpx.URL("")
    if parts.scheme not in ("http", "https") or not parts.host:
        raise InvalidRequest(f"expected an address such as http://127.0.0.1:8000, got {shown(url)}", "url")
    return url


def _check_transport(transport: object, kind: type) -> None:
    if transport is not None and not isinstance(transport, kind):
        raise InvalidRequest(f"expected an httpx.{kind.__name__} or None, got {shown(transport)}", "transport")


def _encoded(encode: Callable[[Any], bytes], body: Mapping[str, Any]) -> bytes:
    try:
        return encode(body)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidRequest(f"body: expected values that can be sent, got one that cannot: {error}") from None


def _json(body: Mapping[str, Any]) -> bytes:
    """JSON with integers of any length, which orjson does not write."""
    return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _longest_s(body: Mapping[str, Any]) -> float:
    """How long an answer may take by a body's own deadline."""
    deadline_ms = body.get("deadline_ms")
    return deadline_ms / 1e3 if isinstance(deadline_ms, int | float) and deadline_ms > 0 else _LONGEST_S


def _document(response: httpx.Response, codec: Codec) -> Any:
    media_type = response.headers.get("content-type", "").partition(";")[0]
    if media_type == JSON.media_type:
        codec = JSON
    elif media_type != codec.media_type:
        return None
    try:
        return codec.loads(response.content)
    except (ValueError, TypeError):
        return None


def _packed(vectors: object, where: str) -> bytes:
    return float32_array(vectors, where).astype("<f4", copy=False).tobytes()


def _to_items(writes: Sequence[Write]) -> dict[str, list[Any]]:
    items: dict[str, list[Any]] = {"upsert": [], "delete": [], "patch": []}
    for write in writes:
        match write:
            case Upsert():
                vector = _packed(write.vector, "vector")
                item = {"id": write.id, "vector": vector, "fields": dict(write.fields), "space": write.space or None}
                items["upsert"].append(item)
            case Delete():
                items["delete"].append(write.id)
            case Patch():
                items["patch"].append({"id": write.id, "fields": dict(write.fields)})
    return items


_OTHERWISE = {"vectors", "user", "context", "fields", "timeout_s", "diversify", "keys"}
"""Options of a request that a body has in another form, or not at all."""
_SAME = tuple(field.name for field in fields(SearchRequest) if field.name not in _OTHERWISE)


def _to_query(request: SearchRequest) -> dict[str, Any]:
    if request.keys is not None:
        raise InvalidRequest("keys do not travel over HTTP: given items are ranked by their ids", "keys")
    vectors, user, context = request.vectors, request.user, request.context
    return {name: getattr(request, name) for name in _SAME} | {
        "vectors": None if vectors is None else _packed(vectors, "vectors"),
        "user": None if user is None else dict(user),
        "context": None if context is None else dict(context),
        "fields": list(request.fields),
        "deadline_ms": (_LONGEST_S if request.timeout_s is None else request.timeout_s) * 1e3,
        "diversify": None if request.diversify is None else {"strength": request.diversify},
    }


def _to_outcome(result: Mapping[str, Any]) -> SearchReply | SearchError:
    if "error" in result:
        return from_document(result, 200)
    ids: Any = result["ids"]
    if isinstance(ids, bytes):
        ids = np.frombuffer(ids, dtype="<i8")
    coverage = result["coverage"]
    return SearchReply(
        ids=ids,
        keys=hash_texts(ids) if isinstance(ids, list) else ids,
        scores=np.frombuffer(result["scores"], dtype="<f4"),
        fields=result["fields"],
        version=result["version"],
        seq=result["seq"],
        coverage=Coverage(coverage["shards"], coverage["answered"], coverage["items_fraction"]),
        explain=result.get("explain"),
        tasks=_task_scores(result["tasks"], result["found_by"]) if "tasks" in result else None,
    )


def _task_scores(predictions: Mapping[str, bytes], found: Mapping[str, bytes]) -> TaskScores:
    tables = ([np.frombuffer(column, dtype="<f4") for column in part.values()] for part in (predictions, found))
    return TaskScores(tuple(predictions), *(np.stack(columns, axis=1) for columns in tables))
