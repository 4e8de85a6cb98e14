"""The search endpoint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from starlette.types import Receive, Scope, Send

from silverray.router.batch.gate import Visit
from silverray.router.batch.pulse import Pulse
from silverray.router.http.asgi import exchange
from silverray.router.http.body_reader import BodyReader
from silverray.router.http.codecs import Codec, encode_outcomes, encode_ranking
from silverray.router.http.parsing import SearchCall, parse_rank, parse_search
from silverray.router.router import Router
from silverray.shard.api import DeadlineExceeded, InvalidRequest, SearchError, SearchReply, SearchRequest
from silverray.shard.query import Query, UserQuery
from silverray.shard.result_batch import Outcome

_INLINE_BODY = 64 << 10
"""Decoding so many bytes of JSON holds the event loop up for 0.2 ms, and checking the 25 queries in them for about
0.8; to a thread and back takes 0.1 ms, more than decoding and checking a usual body."""
_INLINE_REPLY_ITEMS = 2_000
"""Items whose rows are encoded within the event loop, in 0.8 ms without fields and 2.5 with two; to a thread and back
takes about 0.1."""


class SearchEndpoint:
    """Serves `POST /v1/search`.

    A request's deadline counts from when its headers arrived. What is too much is refused before its body is read;
    other bodies are decoded when their turn comes (`Gate`), and not searched for where their time is up by then. Long
    bodies and replies are decoded and encoded in a thread, so that they do not hold up the others.

    Args:
        router: answers the searches.
        reader: reads the bodies, within bounds that it may share with other endpoints.
    """

    def __init__(self, router: Router, reader: BodyReader) -> None:
        self._router = router
        self._reader = reader
        self._pulse = Pulse()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        received = self._pulse.arrived()
        deadline: float | None = None

        async def answer(request_form: Codec, reply_form: Codec, body: bytes) -> bytes:
            nonlocal deadline
            with await self._enter() as visit:
                call, queries = await self._validate(request_form, reply_form, body, received)
                deadline = received + _longest_s(call.requests)
                visit.decoded(_longest_s(call.requests))
                outcomes = await self._answer(queries, call.wheres, received)
                if self._tells_of_load(call.requests):
                    visit.answered()
                return await _encode(outcomes, reply_form, call, self._router.settings.max_reply_bytes)

        await exchange(scope, receive, send, self._reader, answer, self._check)
        if deadline is not None:
            self._router.metrics.left(time.monotonic(), received, deadline)

    def _tells_of_load(self, requests: Sequence[SearchRequest]) -> bool:
        """Whether the time that an answer took is the router's and the shards' own."""
        waited = any(request.min_seq or request.user is not None for request in requests)  # for writes, the encoder
        return not waited and not self._router.hindered

    def _check(self) -> None:
        try:
            self._router.gate.check()
        except SearchError as error:
            self._router.metrics.answered(error)
            raise

    async def _enter(self) -> Visit:
        try:
            return await self._router.gate.enter()
        except SearchError as error:
            self._router.metrics.answered(error)
            raise

    async def _answer(
        self, queries: Sequence[Query | UserQuery | DeadlineExceeded], wheres: Sequence[str], received: float
    ) -> list[Outcome]:
        good = [
            (query, where)
            for query, where in zip(queries, wheres, strict=True)
            if not isinstance(query, DeadlineExceeded)
        ]
        answers = iter(await self._router.respond([query for query, _ in good], [where for _, where in good], received))
        return [query if isinstance(query, DeadlineExceeded) else next(answers) for query in queries]

    async def _validate(
        self, request_form: Codec, reply_form: Codec, body: bytes, received: float
    ) -> tuple[SearchCall, list[Query | UserQuery | DeadlineExceeded]]:
        try:
            if len(body) <= _INLINE_BODY:
                call = self._parse(request_form, body)
            else:
                call = await asyncio.get_running_loop().run_in_executor(None, self._parse, request_form, body)
            if call.columns and not reply_form.columnar:
                raise InvalidRequest("a columnar reply needs Accept: application/msgpack", "columns")
            if received + _longest_s(call.requests) <= time.monotonic():
                raise DeadlineExceeded("the time was up before the search began")
            queries: list[Query | UserQuery | DeadlineExceeded] = []
            for query in await self._router.validate(call.requests, call.wheres, received):
                if isinstance(query, SearchError) and not isinstance(query, DeadlineExceeded):
                    raise query
                queries.append(query)
        except SearchError as error:
            self._router.metrics.answered(error)
            raise
        for query in queries:
            if isinstance(query, DeadlineExceeded):
                self._router.metrics.answered(query)
        return call, queries

    def _parse(self, codec: Codec, body: bytes) -> SearchCall:
        return parse_search(codec.decode(body), self._router.catalog.dimension, self._router.settings)


class RankEndpoint(SearchEndpoint):
    """Serves `POST /v1/rank`, likewise: given items are judged for a user, not searched."""

    def _parse(self, codec: Codec, body: bytes) -> SearchCall:
        catalog = self._router.catalog
        return parse_rank(codec.decode(body), catalog.dimension, catalog.id_type, self._router.settings)


def _longest_s(requests: Sequence[SearchRequest]) -> float:
    return max(request.timeout_s or 0.0 for request in requests)


async def _encode(outcomes: Sequence[SearchReply | SearchError], codec: Codec, call: SearchCall, limit: int) -> bytes:
    errors = [outcome for outcome in outcomes if isinstance(outcome, SearchError)]
    for error in errors:
        if error.status < 500 or len(errors) == len(outcomes):
            raise error
    items = sum(len(outcome.keys) for outcome in outcomes if isinstance(outcome, SearchReply))

    def encode() -> bytes:
        if call.ids and isinstance(outcomes[0], SearchReply):
            return encode_ranking(outcomes[0], call.ids, codec, limit)
        return encode_outcomes(outcomes, codec, alone=call.alone, columns=call.columns, limit=limit)

    if items <= _INLINE_REPLY_ITEMS:
        return encode()
    return await asyncio.get_running_loop().run_in_executor(None, encode)
