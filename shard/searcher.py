"""The shard as a searcher: an engine behind one compute thread, so that no event loop ever computes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import ClassVar, Self

import torch

from silverray.shard.api import (
    DeadlineExceeded,
    InvalidRequest,
    SearchError,
    SearchRequest,
    SequenceNotReached,
    shown,
)
from silverray.shard.arguments import whole_number
from silverray.shard.engine.engine import Engine, require_engine
from silverray.shard.engine.exact import ExactEngine
from silverray.shard.engine.rerank import WINDOW
from silverray.shard.engine.validation import Validator
from silverray.shard.index.placement import ItemCache
from silverray.shard.limits import limited
from silverray.shard.live.updates import Updates
from silverray.shard.live.writes import Entry
from silverray.shard.query import Query, QueryBatch
from silverray.shard.result_batch import Outcome, ResultBatch
from silverray.shard.value.settings import ValueSettings


class ShardSearcher:
    """Answers from an engine in one thread; requests whose time is up before their turn are skipped.

    That thread is also the gate of updates: a search sees each item as it was before a write or after it.

    Args:
        engine: what answers.
        max_reply_bytes: most bytes of payload that the answers to a batch have together; None is no bound.

    Attributes:
        updates: what brings log entries in; None if the engine has no slack for them.
    """

    engine_type: ClassVar[type[Engine]] = Engine

    def __init__(self, engine: Engine, max_reply_bytes: int | None = None) -> None:
        require_engine(engine, type(self).__name__)
        if max_reply_bytes is not None:
            whole_number(max_reply_bytes, "at least 1 or None", 1, 2**63 - 1, "max_reply_bytes")
        self.engine = engine
        self._max_reply_bytes = max_reply_bytes
        self.catalog = engine.catalog
        self._validator = Validator(engine.catalog, engine.valuer)
        threads = torch.get_num_threads()
        self._thread = ThreadPoolExecutor(1, "shard", initializer=torch.set_num_threads, initargs=(threads,))
        self.updates = None if engine.slack is None else Updates(engine, self._between_searches)

    @classmethod
    def open(
        cls,
        path: str | Path,
        partitions: Sequence[int] | None = None,
        *,
        device: str = "auto",
        threads: int | None = None,
        item_cache: ItemCache = "device",
        slack: float | None = None,
        value: ValueSettings = ValueSettings(),  # noqa: B008 (immutable)
        window: int = WINDOW,
        max_reply_bytes: int | None = None,
    ) -> Self:
        """Load partitions of a snapshot; the other arguments and errors are those of `Engine.open`."""
        engine = cls.engine_type.open(
            path,
            partitions,
            device=device,
            threads=threads,
            item_cache=item_cache,
            slack=slack,
            value=value,
            window=window,
        )
        return cls(engine, max_reply_bytes)

    @property
    def applied(self) -> int:
        """Number of the last log entry that answers include."""
        return self.engine.applied

    def apply(self, entries: Sequence[Entry]) -> None:
        """Apply log entries, and return when every search that begins later sees them; see `Updates.apply`.

        Raises:
            ValueError: the shard was opened without slack.
        """
        if self.updates is None:
            raise ValueError("slack: expected free slots for each item, got None; open the shard with slack")
        self.updates.apply(entries)

    async def search(self, requests: Sequence[SearchRequest]) -> list[Outcome]:
        """Answer a batch; see `silverray.shard.api.Searcher`.

        Raises:
            InvalidRequest: `requests` is no batch of them.
        """
        _check_batch(requests)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._search, list(requests), monotonic())

    async def answer(self, batch: QueryBatch) -> ResultBatch:
        """Answer a batch of queries; see `silverray.shard.protocol.Shard`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._answer, batch, monotonic())

    def _between_searches(self, write: Callable[[], None]) -> None:
        self._thread.submit(write).result()

    def _search(self, requests: list[SearchRequest], received: float) -> list[Outcome]:
        errors: dict[int, SearchError] = {}
        queries = []
        for place, request in enumerate(requests):
            try:
                queries.append(self._query(request))
            except SearchError as error:
                errors[place] = error
        if not queries:
            return [errors[place] for place in range(len(requests))]
        rows = [
            row if isinstance(row, SearchError) else limited(row, query)
            for query, row in zip(queries, self._answer(QueryBatch.of(queries), received).rows(), strict=True)
        ]
        others = iter(rows)
        return [errors[place] if place in errors else next(others) for place in range(len(requests))]

    def _query(self, request: SearchRequest) -> Query:
        """The request as a query that a shard can answer by itself."""
        query = self._validator.validate(request)
        if query.diversify is not None:
            raise InvalidRequest("a shard knows a part of the items only: ask a router", "diversify")
        if not isinstance(query, Query):
            raise InvalidRequest("a shard has no user tower: send vectors", "user")
        return query

    def _answer(self, batch: QueryBatch, received: float) -> ResultBatch:
        late = self._cannot(batch, monotonic() - received)
        if not late:
            return self.engine.answer(batch, self._max_reply_bytes)
        places = [place for place in range(len(batch)) if place not in late]
        if not places:
            return ResultBatch.failed([late[place] for place in range(len(batch))], self.catalog.version)
        return self.engine.answer(batch.take(places), self._max_reply_bytes).beside(late)

    def _cannot(self, batch: QueryBatch, waited_s: float) -> dict[int, SearchError]:
        """Why queries cannot be answered now, by place."""
        errors: dict[int, SearchError] = {}
        for place, (timeout_s, min_seq) in enumerate(zip(batch.timeout_s, batch.min_seq, strict=True)):
            if timeout_s is not None and timeout_s <= waited_s:
                errors[place] = DeadlineExceeded("the time was up before the search began")
            elif min_seq > self.applied:
                message = f"the shard is at {self.applied}, not at {min_seq} yet"
                errors[place] = SequenceNotReached(message, "min_seq")
        return errors


def _check_batch(requests: object) -> None:
    if not isinstance(requests, Sequence) or isinstance(requests, str | bytes):
        raise InvalidRequest(f"expected a list of SearchRequest, got {shown(requests)}", "requests")
    for place, request in enumerate(requests):
        if not isinstance(request, SearchRequest):
            raise InvalidRequest(f"expected a SearchRequest, got {shown(request)}", f"requests[{place}]")


class ExactSearch(ShardSearcher):
    """Brute force over stored vectors and values: the truth that every other searcher is held to."""

    engine_type = ExactEngine
