"""The router: one searcher made of many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from silverray.router.batch.batcher import AnyTicket, Batcher
from silverray.router.batch.fanout import Backend, Fanout
from silverray.router.batch.gate import Gate
from silverray.router.batch.ticket import EncodingTicket, SearchTicket
from silverray.router.errors import at
from silverray.router.metrics import RouterMetrics
from silverray.router.settings import RouterSettings
from silverray.router.stages.compile import Compiled, FilterCompiler
from silverray.router.stages.diversify import Diversifier
from silverray.router.stages.encode import UserEncoding
from silverray.router.stages.limit import Limiter
from silverray.router.stages.rerank import Reranker
from silverray.router.stages.stage import Stage
from silverray.router.writes.lag import LagWatch
from silverray.router.writes.log import UpdateLog
from silverray.router.writes.log_end import LogEnd
from silverray.shard.api import (
    DeadlineExceeded,
    Encoder,
    InvalidRequest,
    Overloaded,
    SearchError,
    SearchRequest,
    SequenceNotReached,
)
from silverray.shard.engine.validation import Validator
from silverray.shard.query import Query, QueryBatch, UserQuery
from silverray.shard.result_batch import Outcome, ResultBatch

if TYPE_CHECKING:
    from silverray.shard.snapshot.catalog import Catalog

_INLINE_REQUESTS = 16
"""Requests that are checked within the event loop, some 30 us each; more would hold up the others of a batch."""
_PROBE_S = 1.0
"""Time that a shard has to say that it is there: whoever asks for readiness waits a second or two."""


class Router:
    """A `Searcher` over the shards of one snapshot.

    Requests are checked, given vectors where they bring user features, batched, sent to every shard, and
    answered by their deadline with what the shards had said by then. Belongs to one event loop.

    Args:
        catalog: the snapshot that the backends serve.
        backends: the shards.
        encoder: turns user features into vectors; None when the snapshot has no user tower.
        settings: limits and defaults.
        validator: checks requests and compiles filters; None makes one for the catalog.
        log: says which writes have been made; None where none can be.

    Raises:
        ValueError: the settings do not fit the catalog.
        SnapshotError: a set-wise scorer, which routers run, is damaged.

    Attributes:
        catalog: the snapshot.
        settings: limits and defaults.
        metrics: what has been counted and measured so far.
        gate: counts what is worked on, and holds up or refuses HTTP bodies that are too much.
    """

    def __init__(
        self,
        catalog: Catalog,
        backends: Sequence[Backend],
        encoder: Encoder | None = None,
        *,
        settings: RouterSettings = RouterSettings(),  # noqa: B008 (immutable)
        validator: Validator | None = None,
        log: UpdateLog | None = None,
    ) -> None:
        self.catalog = catalog
        self.settings = settings
        self.metrics = RouterMetrics()
        self.gate = Gate(settings)
        self._validator = validator or Validator(catalog)
        self._compiler = FilterCompiler(self._validator)
        self._fanout = Fanout(backends, catalog.version, catalog.partitions)
        self._searches = self._batcher(self._send)
        self._encoding = (
            UserEncoding(encoder, self._validator, catalog.user_features, self.metrics) if encoder else None
        )
        self._encodings = self._batcher(self._encode)
        self._stages = _stages(settings, catalog, self._validator)
        self._small = _small_query(catalog, self._validator)
        self._log_end = LogEnd(catalog.seq, log)
        self._lag = LagWatch(self._seq_of)
        self._waiting = 0
        self._probing = asyncio.Lock()

    @property
    def hindered(self) -> bool:
        """Whether a shard hangs, so that answers take their whole time though nothing is busy."""
        return self._fanout.hanging

    @property
    def encodes(self) -> bool:
        """Whether requests may bring user features."""
        return self._encoding is not None

    async def search(self, requests: Sequence[SearchRequest]) -> list[Outcome]:
        """Answer a batch; see `Searcher`.

        A request without a time-out gets the longest that the settings allow.

        Raises:
            Overloaded: too many requests are waiting already; none of these was taken.
        """
        if not requests:
            return []
        received = time.monotonic()
        queries = await self.validate(requests, [""] * len(requests), received)
        good = [query for query in queries if not isinstance(query, SearchError)]
        answers = iter(await self.respond(good, [""] * len(good), received))
        outcomes = [query if isinstance(query, SearchError) else next(answers) for query in queries]
        for query in queries:
            if isinstance(query, SearchError):
                self.metrics.answered(query)
        longest = max(self._allowed_s(request.timeout_s) for request in requests)
        self.metrics.left(time.monotonic(), received, received + longest)
        return outcomes

    async def validate(
        self, requests: Sequence[SearchRequest], wheres: Sequence[str], received: float
    ) -> list[Query | UserQuery | SearchError]:
        """Check requests against the catalog and compile their filters, without sending anything.

        Args:
            requests: as the client made them.
            wheres: the path of each in its body, such as `queries[3]`; empty for a request alone.
            received: when they were received, on the clock of `time.monotonic`.

        Returns:
            For each request its query, or what is wrong with it: `DeadlineExceeded` where its filter was not
            compiled by its deadline.
        """
        deadlines = [received + self._allowed_s(request.timeout_s) for request in requests]
        compiled = await self._compiler.compile(requests, wheres, deadlines)
        beyond = await self._log_end.refuse_beyond(request.min_seq for request in requests)
        queries = await self._validated(requests, wheres, compiled)
        for place, error in beyond.items():
            queries[place] = at(wheres[place], error)
        return queries

    async def respond(
        self, queries: Sequence[Query | UserQuery], wheres: Sequence[str], received: float
    ) -> list[Outcome]:
        """Answer queries: widen them stage by stage, find lists, and finish these in the opposite order.

        Args:
            queries: from `validate`; their time-outs count from `received`.
            wheres: as in `validate`.
            received: when they were received, on the clock of `time.monotonic`.

        Returns:
            One outcome per query, each there by its own deadline, all handed over with the last.

        Raises:
            Overloaded: too many queries are waiting already; none of these was taken.
        """
        if not queries:
            return []
        chain = [list(queries)]
        for stage in self._stages:
            chain.append([stage.widen(query) for query in chain[-1]])
        deadlines = [received + self._allowed_s(query.timeout_s) for query in queries]
        with self._occupied(len(queries)):
            tickets = self._tickets(chain.pop(), deadlines, wheres)
            outcomes = await self._found(tickets)
            for stage in reversed(self._stages):
                asked = chain.pop()
                if stage.needs_vectors:
                    asked = list(map(_with_vectors, asked, tickets))
                finished = await stage.finish(asked, outcomes)
                outcomes = list(map(_located, wheres, outcomes, finished))
        for outcome in outcomes:
            self.metrics.answered(outcome)
        return outcomes

    async def answer(self, batch: QueryBatch) -> ResultBatch:
        """Answer a batch of another router, which has stages of its own; see `silverray.shard.protocol.Shard`."""
        now = time.monotonic()
        deadlines = [now + self._allowed_s(timeout_s) for timeout_s in batch.timeout_s]
        with self._occupied(len(batch)):
            outcomes = await self._found(self._tickets(list(batch), deadlines, [""] * len(batch)))
        for outcome in outcomes:
            self.metrics.answered(outcome)
        return ResultBatch.of(outcomes, self.catalog.version)

    async def silent(self) -> list[str]:
        """Names of the backends that have never answered; asks them first, for at most a second.

        The router is ready when there are none.
        """
        if self._fanout.silent:
            async with self._probing:
                if self._fanout.silent:
                    await self._probe()
        return self._fanout.silent

    def to_document(self) -> dict[str, Any]:
        """Counters, measurements and the state of the backends, as in a status reply."""
        return {
            "version": self.catalog.version,
            "pending": self.gate.inside,
            "waiting_for_writes": self._waiting,
            "gate": self.gate.to_document(),
            "backends": self._fanout.to_document(),
            **self.metrics.to_document(),
        }

    async def close(self) -> None:
        """Stop: what is in flight is answered with what is there, what is queued when its deadline comes."""
        await self._lag.close()
        await self._encodings.close()
        await self._searches.close()
        await self._fanout.close()
        self._compiler.close()
        for stage in self._stages:
            stage.close()

    @contextmanager
    def _occupied(self, count: int) -> Iterator[None]:
        """Work on so many queries.

        Raises:
            Overloaded: too many are worked on already.
        """
        if self.gate.inside + count > self.settings.max_pending:
            error = Overloaded(f"{self.gate.inside} of {self.settings.max_pending} requests are waiting already")
            for _ in range(count):
                self.metrics.answered(error)
            raise error
        self.gate.occupy(count)
        try:
            yield
        finally:
            self.gate.free(count)

    def _tickets(
        self, queries: Sequence[Query | UserQuery], deadlines: Sequence[float], wheres: Sequence[str]
    ) -> list[SearchTicket | EncodingTicket]:
        return [
            SearchTicket(query, deadline, where) if isinstance(query, Query) else EncodingTicket(query, deadline, where)
            for query, deadline, where in zip(queries, deadlines, wheres, strict=True)
        ]

    async def _found(self, tickets: Sequence[SearchTicket | EncodingTicket]) -> list[Outcome]:
        """What the shards find, for each ticket by its deadline."""
        try:
            self._searches.put(ticket for ticket in tickets if isinstance(ticket, SearchTicket))
            self._encodings.put(ticket for ticket in tickets if isinstance(ticket, EncodingTicket))
            outcomes = [await ticket.future for ticket in tickets]
            await self._wait_for_writes(tickets, outcomes)
            return outcomes
        finally:
            for ticket in tickets:
                ticket.abandon()

    async def _wait_for_writes(self, tickets: Sequence[SearchTicket | EncodingTicket], outcomes: list[Outcome]) -> None:
        """Where shards had not reached a `min_seq`, ask those again once they have, or until the time is up.

        The router waits and not the shards, which would hold up the others of a batch for one that waits. Who waits is
        not worked on, so that it takes nobody's place.
        """
        late = {
            place: ticket.search
            for place, (ticket, outcome) in enumerate(zip(tickets, outcomes, strict=True))
            if isinstance(outcome, SequenceNotReached) and ticket.search is not None
        }
        if not late:
            return
        if self._waiting + len(late) > self.settings.max_waiting:
            for place, ticket in late.items():
                message = f"{self._waiting} of {self.settings.max_waiting} requests wait for a write already"
                outcomes[place] = at(ticket.where, Overloaded(message, "min_seq"))
            return
        self._waiting += len(late)
        self.gate.free(len(late))
        try:
            waiting = (self._caught_up(ticket, outcomes[place]) for place, ticket in late.items())
            for place, outcome in zip(late, await asyncio.gather(*waiting), strict=True):
                outcomes[place] = outcome
        finally:
            self._waiting -= len(late)
            self.gate.occupy(len(late))

    async def _caught_up(self, ticket: SearchTicket, outcome: Outcome) -> Outcome:
        """Wait for the shards that lag and ask them again; `outcome` is what there is without them."""
        while isinstance(outcome, SequenceNotReached) and ticket.lagging:
            if not await self._lag.reached(ticket.lagging, ticket.query.min_seq, ticket.deadline):
                break
            ticket = SearchTicket(ticket.query, ticket.deadline, ticket.where, kept=ticket.kept)
            try:
                self._searches.put([ticket])
                answer = await ticket.future
            finally:
                ticket.abandon()
            if isinstance(answer, DeadlineExceeded):
                break
            outcome = answer
        return outcome

    async def _seq_of(self, shard: str) -> int | None:
        return await self._fanout.seq_of(shard, self._small)

    def _batcher(self, send: Callable[[list[AnyTicket]], Awaitable[None]]) -> Batcher[AnyTicket]:
        settings = self.settings
        return Batcher(
            send,
            slots=settings.slots,
            max_batch=settings.max_batch,
            max_batch_items=settings.max_batch_items,
        )

    async def _validated(
        self, requests: Sequence[SearchRequest], wheres: Sequence[str], compiled: Sequence[Compiled | None]
    ) -> list[Query | UserQuery | SearchError]:
        if len(requests) <= _INLINE_REQUESTS:
            return list(map(self._query, requests, wheres, compiled))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, lambda: list(map(self._query, requests, wheres, compiled)))

    def _query(self, request: SearchRequest, where: str, compiled: Compiled | None) -> Query | UserQuery | SearchError:
        """The request as a query, or what is wrong with it."""
        if isinstance(compiled, SearchError):
            return compiled
        if request.user is not None and self._encoding is None:
            message = f"version {self.catalog.version!r} is served without a user tower: send vectors"
            return at(where, InvalidRequest(message, "user"))
        try:
            query = self._validator.validate(request, where, compiled)
            return query if self._encoding is None or isinstance(query, Query) else self._encoding.trim(query, where)
        except SearchError as error:
            return error

    def _allowed_s(self, timeout_s: float | None) -> float:
        longest = self.settings.max_deadline_s
        return longest if timeout_s is None else min(timeout_s, longest)

    async def _send(self, batch: list[SearchTicket]) -> None:
        self.metrics.sent(len(batch))
        await self._fanout.send(batch)

    async def _encode(self, batch: list[EncodingTicket]) -> None:
        if self._encoding is not None:  # else there is no such ticket: `_query` refuses their requests
            self._searches.put(await self._encoding.encode(batch))

    async def _probe(self) -> None:
        ticket = SearchTicket(self._small, time.monotonic() + _PROBE_S)
        await self._fanout.send([ticket])
        await ticket.future


def _stages(settings: RouterSettings, catalog: Catalog, validator: Validator) -> list[Stage]:
    """What is done around the search of the shards, from the outside in."""
    stages: list[Stage] = [Diversifier(settings.diversity, catalog), Limiter(settings.quotas, catalog)]
    return [*stages, Reranker(settings.rerank, catalog, validator.valuer)] if catalog.set_wise else stages


def _small_query(catalog: Catalog, validator: Validator) -> Query:
    """A search that takes next to nothing."""
    tasks, dimension = len(catalog.tasks), catalog.dimension
    vectors = np.full((tasks, dimension), dimension**-0.5, dtype=np.float32)
    return Query(vectors=vectors, filter=validator.compile(None), k=1, n_probe=1, timeout_s=_PROBE_S)


def _with_vectors(query: Query | UserQuery, ticket: SearchTicket | EncodingTicket) -> Query | UserQuery:
    """A query, with the vectors that its ticket was given."""
    if isinstance(query, Query) or ticket.search is None:
        return query
    return query.encoded(ticket.search.query.vectors)


def _located(where: str, before: Outcome, after: Outcome) -> Outcome:
    """What a stage has made of an outcome; an error of its own says where the query stands in its body."""
    return at(where, after) if isinstance(after, SearchError) and after is not before else after
