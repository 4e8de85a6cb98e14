"""Searching and writing at the same time: the load of `silverray bench live`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from silverray.benchmarks.catalogs import clustered, queries
from silverray.shard.admission import Admission
from silverray.shard.api import SearchReply, SearchRequest
from silverray.shard.index.arrangement import SLACK
from silverray.shard.index.builder import publish
from silverray.shard.live.updates import UpdatesStatus
from silverray.shard.live.writes import Delete, Entry, Patch, Upsert, Write
from silverray.shard.searcher import ShardSearcher

BODY = 100
"""Writes that are handed over together."""
BATCH, K = 64, 100
Floats = NDArray[np.float32]


class Window(NamedTuple):
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
    """A shard with more items waiting to be written than it loses.

    Args:
        work: folder that keeps the snapshot.
        items: how many are published; half as many are new.
        dimension: of the vectors.
        clusters: number of k-means clusters.
        query_count: number of queries.

    Attributes:
        vectors: `[N, D]` float32, of all that are, were or will be items.
        queries: `[B, D]` float32.
        replaced: how many items were written so far.
    """

    def __init__(self, work: Path, items: int, dimension: int, clusters: int, query_count: int) -> None:
        catalog = clustered(items + items // 2, dimension)
        self.vectors = catalog.vectors
        self.queries = queries(catalog, query_count)
        self._fields = catalog.items.drop_columns(["id"])
        folder, version = work / f"live-{items}x{dimension}", f"clusters{clusters}"
        if not (folder / version).exists():
            table, schema = catalog.items.slice(0, items), catalog.schema
            publish(table, schema, folder, vectors=catalog.vectors[:items], clusters=clusters, version=version)
        self.searcher = ShardSearcher.open(folder / version, slack=SLACK, threads=2)
        self._updates = self.searcher.updates
        self._held = np.arange(len(self.vectors)) < items
        self.replaced = 0
        self._written, self._new, self._old = 0, items, 0
        self._rng = np.random.default_rng(0)
        admission = Admission(self.searcher.catalog)
        self._requests = [admission.admit(SearchRequest(vectors=query[None], k=K)) for query in self.queries]

    def turn_over(self, count: int) -> list[Write]:
        """A new item for each that ends, `count` writes in all; what has ended long since is new in the end."""
        writes: list[Write] = []
        for _ in range(count // 2):
            writes += [self._upsert(self._new), Delete(self._old)]
            self._new, self._old = (self._new + 1) % len(self.vectors), (self._old + 1) % len(self.vectors)
        return writes

    def flip(self, count: int) -> list[Write]:
        """Another value of `safe` for items from anywhere."""
        ids = self._rng.choice(np.flatnonzero(self._held), count, replace=False)
        return [Patch(id_, {"safe": bool(self._rng.random() < 0.5)}) for id_ in ids.tolist()]

    def write(self, writes: Sequence[Write]) -> None:
        """Hand writes over, and wait until searches see them."""
        entries = [Entry(self._written + place, write) for place, write in enumerate(writes, 1)]
        self._written += len(writes)
        self.searcher.apply(entries)
        upserted = [int(write.id) for write in writes if isinstance(write, Upsert)]
        self._held[[int(write.id) for write in writes if isinstance(write, Delete)]] = False
        self._held[upserted] = True
        self.replaced += len(upserted)

    def held(self) -> NDArray[np.bool_]:
        """Which vectors are items now, `[N]` bool."""
        return self._held.copy()

    def compact(self) -> None:
        """Make the arrays anew, and wait until searches use them."""
        assert self._updates is not None
        self._updates.compact().result()

    def status(self) -> UpdatesStatus:
        """How the shard stands."""
        assert self._updates is not None
        return self._updates.status()

    def search(self, seconds: float, rate: float = 0, make: Callable[[int], list[Write]] | None = None) -> Window:
        """Search in a closed loop, and write so many items a second meanwhile."""
        stop, visible = threading.Event(), list[float]()
        prepared = [(make or self.turn_over)(BODY) for _ in range(int(seconds * rate / BODY) + 1)] if rate else []
        writer = threading.Thread(target=self._write_at, args=(prepared, BODY / rate if rate else 0, stop, visible))
        writer.start()
        began = time.perf_counter()
        try:
            times = asyncio.run(self._search_until(began + seconds))
            took = time.perf_counter() - began
        finally:
            stop.set()
            writer.join()
        return Window(took, tuple(times), tuple(visible))

    def search_during(self, work: Callable[[], object]) -> Window:
        """Search in a closed loop for as long as something takes in another thread."""
        thread = threading.Thread(target=work)
        thread.start()
        began = time.perf_counter()
        times = asyncio.run(self._search_while(thread.is_alive))
        took = time.perf_counter() - began
        thread.join()
        return Window(took, tuple(times))

    def found(self, k: int) -> Floats:
        """Scores `[B, k]` of what default settings find for every query."""
        replies = asyncio.run(self.searcher.search(self._requests))
        scores = [reply.scores[:k] for reply in replies if isinstance(reply, SearchReply)]
        return np.stack(scores)

    def _write_at(
        self, bodies: Sequence[list[Write]], interval_s: float, stop: threading.Event, visible: list[float]
    ) -> None:
        due = time.perf_counter()
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
            await self.searcher.search(next(batches))
            times.append(time.perf_counter() - began)
        return times

    def _batches(self) -> Iterator[list[SearchRequest]]:
        while True:
            for start in range(0, len(self._requests) - BATCH + 1, BATCH):
                yield self._requests[start : start + BATCH]

    def _upsert(self, row: int) -> Upsert:
        fields = {name: value[0] for name, value in self._fields.slice(row, 1).to_pydict().items()}
        return Upsert(row, self.vectors[row], fields)
