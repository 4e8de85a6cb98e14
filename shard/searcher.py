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
    SearchReply,
    SearchRequest,
    SequenceNotReached,
    shown,
)
from silverray.shard.arguments import whole_number
from silverray.shard.engine.engine import Engine, require_engine
from silverray.shard.engine.exact import ExactEngine
from silverray.shard.engine.rerank import WINDOW
from silverray.shard.engine.validation import Admission
from silverray.shard.filter.compiler import CompiledFilter
from silverray.shard.index.placement import ItemCache
from silverray.shard.live.updates import Updates
from silverray.shard.live.writes import Entry
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
        self._admission = Admission(engine.catalog, engine.valuer)
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

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchReply | SearchError]:
        """Answer a batch; see `silverray.shard.api.Searcher`.

        Raises:
            InvalidRequest: `requests` is no batch of them.
        """
        _check_batch(requests)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._answer, list(requests), monotonic())

    def _between_searches(self, write: Callable[[], None]) -> None:
        self._thread.submit(write).result()

    def _answer(self, requests: list[SearchRequest], received: float) -> list[SearchReply | SearchError]:
        waited_s = monotonic() - received
        results: dict[int, SearchReply | SearchError] = {}
        admitted: dict[int, SearchRequest] = {}
        for place, request in enumerate(requests):
            try:
                admitted[place] = self._admitted(request, waited_s)
            except SearchError as error:
                results[place] = error
        answers = self.engine.answer_within(list(admitted.values()), self._max_reply_bytes)
        results.update(zip(admitted, answers, strict=True))
        return [results[place] for place in range(len(requests))]

    def _admitted(self, request: SearchRequest, waited_s: float) -> SearchRequest:
        """The request, checked, if it can be answered now."""
        self._admission.admit_times(request)
        if request.timeout_s is not None and request.timeout_s <= waited_s:
            raise DeadlineExceeded("the time was up before the search began")
        if request.min_seq > self.applied:
            raise SequenceNotReached(f"the shard is at {self.applied}, not at {request.min_seq} yet", "min_seq")
        if request.diversify is not None:
            raise InvalidRequest("a shard knows a part of the items only: ask a router", "diversify")
        if isinstance(request.filter, CompiledFilter):  # a router has admitted it
            return request
        return self._admission.admit(request)


def _check_batch(requests: object) -> None:
    if not isinstance(requests, Sequence) or isinstance(requests, str | bytes):
        raise InvalidRequest(f"expected a list of SearchRequest, got {shown(requests)}", "requests")
    for place, request in enumerate(requests):
        if not isinstance(request, SearchRequest):
            raise InvalidRequest(f"expected a SearchRequest, got {shown(request)}", f"requests[{place}]")


class ExactSearch(ShardSearcher):
    """Brute force over stored vectors and values: the truth that every other searcher is held to."""

    engine_type = ExactEngine
