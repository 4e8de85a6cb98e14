"""The shard as a searcher: an engine behind one compute thread, so that no event loop ever computes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Protocol, Self

from silverray.shard.admission import Admission
from silverray.shard.api import DeadlineExceeded, SearchError, SearchReply, SearchRequest
from silverray.shard.engine import Engine
from silverray.shard.exact import ExactEngine
from silverray.shard.index.catalog import Catalog


class Answering(Protocol):
    """What answers admitted requests synchronously."""

    catalog: Catalog
    items: int

    def answer(self, requests: Sequence[SearchRequest]) -> list[SearchReply]:
        """Answer every request, in order."""
        ...


class ShardSearcher:
    """Answers from an engine in one thread; requests whose time is up before their turn are skipped.

    Args:
        engine: what answers.
    """

    def __init__(self, engine: Answering) -> None:
        self.engine = engine
        self.catalog = engine.catalog
        self.items = engine.items
        self._admission = Admission(engine.catalog)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="shard")

    @classmethod
    def open(
        cls,
        path: Path,
        partitions: Sequence[int] | None = None,
        *,
        device: str = "auto",
        threads: int | None = None,
    ) -> Self:
        """Load partitions of a snapshot; the arguments and errors are those of `Engine.open`."""
        return cls(Engine.open(path, partitions, device=device, threads=threads))

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchReply | SearchError]:
        """Answer a batch; see `silverray.shard.api.Searcher`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._answer, list(requests), monotonic())

    def _answer(self, requests: list[SearchRequest], received: float) -> list[SearchReply | SearchError]:
        return answer_each(self.engine.answer, self._admission, requests, monotonic() - received)


class ExactSearch(ShardSearcher):
    """Brute force over stored vectors and values: the truth that every other searcher is held to."""

    @classmethod
    def open(
        cls,
        path: Path,
        partitions: Sequence[int] | None = None,
        *,
        device: str = "auto",
        threads: int | None = None,
    ) -> Self:
        """Load partitions of a snapshot; the arguments and errors are those of `Engine.open`."""
        return cls(ExactEngine.open(path, partitions, device=device, threads=threads))


def answer_each(
    answer: Callable[[Sequence[SearchRequest]], list[SearchReply]],
    admission: Admission,
    requests: Sequence[SearchRequest],
    waited_s: float,
) -> list[SearchReply | SearchError]:
    """Admit and answer requests; those that are wrong or out of time get their error instead.

    Args:
        answer: answers admitted requests.
        admission: checks each request.
        requests: the batch.
        waited_s: seconds since the requests were handed over.

    Returns:
        A reply or an error per request, in order.
    """
    results: dict[int, SearchReply | SearchError] = {}
    admitted: dict[int, SearchRequest] = {}
    for place, request in enumerate(requests):
        if request.timeout_s is not None and request.timeout_s <= waited_s:
            results[place] = DeadlineExceeded("the time was up before the search began")
            continue
        try:
            admitted[place] = admission.admit(request)
        except SearchError as error:
            results[place] = error
    results.update(zip(admitted, answer(list(admitted.values())) if admitted else [], strict=True))
    return [results[place] for place in range(len(requests))]
