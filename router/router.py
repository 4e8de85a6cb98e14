"""The router: one searcher made of many."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from silverray.router.batch.batcher import Batcher
from silverray.router.batch.fanout import Backend, Fanout
from silverray.router.batch.gate import Gate
from silverray.router.batch.ticket import Ticket
from silverray.router.errors import at
from silverray.router.metrics import RouterMetrics
from silverray.router.settings import RouterSettings
from silverray.router.stages.compile import FilterCompiler
from silverray.router.stages.diversify import Diversifier
from silverray.router.stages.encode import UserEncoding
from silverray.router.stages.quotas import Quotas
from silverray.router.stages.rerank import Reranker
from silverray.router.writes.lag import LagWatch
from silverray.router.writes.log import UpdateLog
from silverray.router.writes.log_end import LogEnd
from silverray.shard.api import (
    DeadlineExceeded,
    Encoder,
    InvalidRequest,
    Overloaded,
    SearchError,
    SearchReply,
    SearchRequest,
    SequenceNotReached,
)
from silverray.shard.engine.validation import Admission

if TYPE_CHECKING:
    from silverray.shard.snapshot.catalog import Catalog

_INLINE_ADMISSIONS = 16
_PROBE_S = 1.0


class Router:
    """A `Searcher` over the shards of one snapshot.

    Requests are admitted, given vectors where they bring user features, batched, sent to every shard, and
    answered by their deadline with what the shards had said by then. Belongs to one event loop.

    Args:
        catalog: the snapshot that the backends serve.
        backends: the shards.
        encoder: turns user features into vectors; None when the snapshot has no user tower.
        settings: limits and defaults.
        admission: checks requests and compiles filters; None makes one for the catalog.
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
        admission: Admission | None = None,
        log: UpdateLog | None = None,
    ) -> None:
        self.catalog = catalog
        self.settings = settings
        self.metrics = RouterMetrics()
        self.gate = Gate(settings)
        self._admission = admission or Admission(catalog)
        self._compiler = FilterCompiler(self._admission)
        self._fanout = Fanout(backends, catalog.version, catalog.partitions)
        self._searches = self._batcher(self._send)
        self._encoding = (
            UserEncoding(encoder, self._admission, catalog.user_features, self.metrics) if encoder else None
        )
        self._encodings = self._batcher(self._encode)
        self._diversifier = Diversifier(settings.diversity, catalog)
        self._quotas = Quotas(settings.quotas, catalog)
        self._reranker = Reranker(settings.rerank, catalog, self._admission.valuer) if catalog.set_wise else None
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

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchReply | SearchError]:
        """Answer a batch; see `Searcher`.

        A request without a time-out gets the longest that the settings allow.

        Raises:
            Overloaded: too many requests are waiting already; none of these was taken.
        """
        if not requests:
            return []
        received = time.monotonic()
        admitted = await self.admit(requests, [""] * len(requests), received)
        good = [entry for entry in admitted if not isinstance(entry, SearchError)]
        answers = iter(await self.answer(good, [""] * len(good), received))
        outcomes = [entry if isinstance(entry, SearchError) else next(answers) for entry in admitted]
        for entry in admitted:
            if isinstance(entry, SearchError):
                self.metrics.answered(entry)
        self.metrics.left(time.monotonic(), received, received + max(map(self._allowed_s, requests)))
        return outcomes

    async def admit(
        self, requests: Sequence[SearchRequest], wheres: Sequence[str], received: float
    ) -> list[SearchRequest | SearchError]:
        """Check requests against the catalog and compile their filters, without sending anything.

        Args:
            requests: as the client made them.
            wheres: the path of each in its body, such as `queries[3]`; empty for a request alone.
            received: when they were received, on the clock of `time.monotonic`.

        Returns:
            For each request its admitted form, or what is wrong with it: `DeadlineExceeded` where its filter was not
            compiled by its deadline.
        """
        deadlines = [received + self._allowed_s(request) for request in requests]
        compiled = await self._compiler.compile(requests, wheres, deadlines)
        beyond = await self._log_end.refuse_beyond(request.min_seq for request in requests)
        admitted = await self._admitted(compiled, wheres)
        for place, error in beyond.items():
            admitted[place] = at(wheres[place], error)
        return admitted

    async def _admitted(
        self, compiled: Sequence[SearchRequest | SearchError], wheres: Sequence[str]
    ) -> list[SearchRequest | SearchError]:
        if len(compiled) <= _INLINE_ADMISSIONS:
            return self._admit_all(compiled, wheres)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(None, self._admit_all, compiled, wheres)

    async def answer(
        self, requests: Sequence[SearchRequest], wheres: Sequence[str], received: float
    ) -> list[SearchReply | SearchError]:
        """Answer admitted requests.

        Args:
            requests: from `admit`; their time-outs count from `received`.
            wheres: as in `admit`.
            received: when they were received, on the clock of `time.monotonic`.

        Returns:
            One outcome per request, each there by its own deadline, all handed over with the last.

        Raises:
            Overloaded: too many requests are waiting already; none of these was taken.
        """
        if not requests:
            return []
        if self.gate.inside + len(requests) > self.settings.max_pending:
            error = Overloaded(f"{self.gate.inside} of {self.settings.max_pending} requests are waiting already")
            for _ in requests:
                self.metrics.answered(error)
            raise error
        diversified = any(request.diversify is not None for request in requests)
        wanted = self._diversifier.widened(requests) if diversified else requests
        asked = self._reranker.widened(requests, wanted) if self._reranker else wanted
        tickets = [
            Ticket(request, received + self._allowed_s(request), where)
            for request, where in zip(self._quotas.widened(asked), wheres, strict=True)
        ]
        self.gate.occupy(len(tickets))
        try:
            self._searches.put(ticket for ticket in tickets if ticket.request.vectors is not None)
            self._encodings.put(ticket for ticket in tickets if ticket.request.vectors is None)
            outcomes = [await ticket.future for ticket in tickets]
            await self._wait_for_writes(tickets, outcomes)
            if self._quotas:
                outcomes = self._quotas.fill(asked, outcomes)
            if self._reranker:
                outcomes = await self._reranker.rerank(requests, wanted, tickets, outcomes)
                outcomes = self._quotas.fill(wanted, outcomes)
            if diversified:
                outcomes = await self._diversifier.choose(requests, wheres, outcomes)
        finally:
            self.gate.free(len(tickets))
            for ticket in tickets:
                ticket.abandon()
        for outcome in outcomes:
            self.metrics.answered(outcome)
        return outcomes

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
        self._diversifier.close()
        if self._reranker:
            self._reranker.close()

    async def _wait_for_writes(self, tickets: list[Ticket], outcomes: list[SearchReply | SearchError]) -> None:
        """Where shards had not reached a `min_seq`, ask those again once they have, or until the time is up.

        The router waits and not the shards, which would hold up the others of a batch for one that waits. Who waits is
        not worked on, so that it takes nobody's place.
        """
        late = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, SequenceNotReached)]
        if not late:
            return
        if self._waiting + len(late) > self.settings.max_waiting:
            for place in late:
                message = f"{self._waiting} of {self.settings.max_waiting} requests wait for a write already"
                outcomes[place] = at(tickets[place].where, Overloaded(message, "min_seq"))
            return
        self._waiting += len(late)
        self.gate.free(len(late))
        try:
            waiting = (self._caught_up(tickets[place], outcomes[place]) for place in late)
            for place, outcome in zip(late, await asyncio.gather(*waiting), strict=True):
                outcomes[place] = outcome
        finally:
            self._waiting -= len(late)
            self.gate.occupy(len(late))

    async def _caught_up(self, ticket: Ticket, outcome: SearchReply | SearchError) -> SearchReply | SearchError:
        """Wait for the shards that lag and ask them again; `outcome` is what there is without them."""
        while isinstance(outcome, SequenceNotReached) and ticket.lagging:
            if not await self._lag.reached(ticket.lagging, ticket.request.min_seq, ticket.deadline):
                break
            ticket = Ticket(ticket.request, ticket.deadline, ticket.where, ticket.kept)
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
        return await self._fanout.seq_of(shard, self._small())

    def _batcher(self, send: Callable[[list[Ticket]], Awaitable[None]]) -> Batcher:
        settings = self.settings
        return Batcher(
            send,
            slots=settings.slots,
            max_batch=settings.max_batch,
            max_batch_items=settings.max_batch_items,
        )

    def _admit_all(
        self, requests: Sequence[SearchRequest | SearchError], wheres: Sequence[str]
    ) -> list[SearchRequest | SearchError]:
        return [
            request if isinstance(request, SearchError) else self._admit(request, where)
            for request, where in zip(requests, wheres, strict=True)
        ]

    def _admit(self, request: SearchRequest, where: str) -> SearchRequest | SearchError:
        if request.user is not None and self._encoding is None:
            message = f"version {self.catalog.version!r} is served without a user tower: send vectors"
            return at(where, InvalidRequest(message, "user"))
        try:
            if request.diversify is not None:
                request = self._diversifier.admit(request, where)
            request = self._admission.admit(request, where)
            return request if self._encoding is None or request.user is None else self._encoding.admit(request, where)
        except SearchError as error:
            return error

    def _allowed_s(self, request: SearchRequest) -> float:
        longest = self.settings.max_deadline_s
        return longest if request.timeout_s is None else min(request.timeout_s, longest)

    async def _send(self, batch: list[Ticket]) -> None:
        self.metrics.sent(len(batch))
        await self._fanout.send(batch)

    async def _encode(self, batch: list[Ticket]) -> None:
        assert self._encoding is not None, "requests with user features are refused without an encoder"
        self._searches.put(await self._encoding.encode(batch))

    async def _probe(self) -> None:
        ticket = Ticket(self._small(), time.monotonic() + _PROBE_S)
        await self._fanout.send([ticket])
        await ticket.future

    def _small(self) -> SearchRequest:
        """A search that takes next to nothing."""
        tasks, dimension = len(self.catalog.tasks), self.catalog.dimension
        vectors = np.full((tasks, dimension), dimension**-0.5, dtype=np.float32)
        return self._admission.admit(SearchRequest(vectors=vectors, k=1, n_probe=1, timeout_s=_PROBE_S))
