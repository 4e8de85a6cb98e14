"""Searching and writing at the same time: the load of `silverray bench live`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from silverray.benchmarks.live.items import Floats, LiveItems
from silverray.cluster.serving.gc_tuning import spare_loaded
from silverray.shard.engine.validation import Validator
from silverray.shard.index.packing import SLACK
from silverray.shard.live.updates import UpdatesStatus
from silverray.shard.live.writes import Entry, Write
from silverray.shard.query import Query, QueryBatch
from silverray.shard.searcher import ShardSearcher

BODY = 100
"""Writes that are handed over together, as in the figures to reach."""
BATCH, K = 64, 100
"""The largest batch of a router, and the k of the figures to reach."""
Maker = Callable[[int], list[Write]]
"""Makes so many writes."""


class ShardWindow(NamedTuple):
    """A stretch of time in which a shard was searched.

    Attributes:
        seconds: how long it was.
        batches_s: seconds of each batch, in order.
        visible_s: for each body of writes, seconds from when it was due until searches saw it.
    """

    seconds: float
    batches_s: tuple[float, ...]
    visible_s: tuple[float, ...] = ()

    @property
    def qps(self) -> float:
        """Queries per second."""
        return BATCH * len(self.batches_s) / self.seconds


class LiveShard:
    """A shard in this process, searched and written.

    Args:
        path: the snapshot.
        items: those that it holds.
    """

    def __init__(self, path: Path, items: LiveItems) -> None:
        self.searcher = ShardSearcher.open(path, slack=SLACK, threads=2)
        self._updates = self.searcher.updates
        self._items = items
        self._written = 0
        validator = Validator(self.searcher.catalog)
        everything = validator.compile(None)
        self._queries = [
            Query(vectors=validator.check_vectors(query[None]), filter=everything, k=K) for query in items.queries
        ]
        spare_loaded()

    def write(self, writes: Sequence[Write]) -> None:
        """Hand writes over, and wait until searches see them."""
        entries = [Entry(self._written + place, write) for place, write in enumerate(writes, 1)]
        self._written += len(writes)
        self.searcher.apply(entries)
        self._items.note(writes)

    def compact(self) -> None:
        """Make the arrays anew, and wait until searches use them."""
        assert self._updates is not None
        self._updates.compact().result()

    def status(self) -> UpdatesStatus:
        """How the shard stands."""
        assert self._updates is not None
        return self._updates.status()

    def search(self, seconds: float, rate: float = 0, make: Maker | None = None) -> ShardWindow:
        """Search in a closed loop, and write so many items a second meanwhile."""
        stop, visible = threading.Event(), list[float]()
        prepared = [make(BODY) for _ in range(round(seconds * rate / BODY))] if make else []
        writer = threading.Thread(target=self._write_at, args=(prepared, BODY / rate if rate else 0, stop, visible))
        writer.start()
        began = time.perf_counter()
        try:
            times = asyncio.run(self._search_until(began + seconds))
            took = time.perf_counter() - began
        finally:
            stop.set()
            writer.join()
        return ShardWindow(took, tuple(times), tuple(visible))

    def search_during(self, work: Callable[[], object]) -> ShardWindow:
        """Search in a closed loop for as long as something takes in another thread."""
        thread = threading.Thread(target=work)
        thread.start()
        began = time.perf_counter()
        times = asyncio.run(self._search_while(thread.is_alive))
        took = time.perf_counter() - began
        thread.join()
        return ShardWindow(took, tuple(times))

    def found(self, k: int) -> Floats:
        """Scores `[B, k]` of what default settings find for every query."""
        results = asyncio.run(self.searcher.answer(QueryBatch.of(self._queries)))
        return results.scores.reshape(len(results), -1)[:, :k]

    def _write_at(
        self, bodies: Sequence[list[Write]], interval_s: float, stop: threading.Event, visible: list[float]
    ) -> None:
        due = time.perf_counter() + interval_s / 2
        for body in bodies:
            if stop.wait(max(0.0, due - time.perf_counter())):
                return
            self.write(body)
            visible.append(time.perf_counter() - due)
            due += interval_s

    async def _search_until(self, end: float) -> list[float]:
        return await self._search_while(lambda: time.perf_counter() < end)

    async def _search_while(self, going: Callable[[], bool]) -> list[float]:
        times: list[float] = []
        batches = self._batches()
        while going():
            began = time.perf_counter()
            await self.searcher.answer(next(batches))
            times.append(time.perf_counter() - began)
        return times

    def _batches(self) -> Iterator[QueryBatch]:
        while True:
            for start in range(0, len(self._queries) - BATCH + 1, BATCH):
                yield QueryBatch.of(self._queries[start : start + BATCH])
