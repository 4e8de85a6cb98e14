"""Items that change: what `silverray bench live` writes, in a shard and over HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from silverray.benchmarks.common.catalogs import clustered, queries
from silverray.shard.live.writes import Delete, Patch, Upsert, Write
from silverray.shard.publish.builder import publish

Floats = NDArray[np.float32]


class LiveItems:
    """A catalog with more items waiting to be written than it loses.

    Args:
        items: how many are published; half as many are new.
        dimension: of the vectors.
        query_count: number of queries.

    Attributes:
        vectors: `[N, D]` float32, of all that are, were or will be items.
        queries: `[B, D]` float32.
        replaced: how many items were written so far.
    """

    def __init__(self, items: int, dimension: int, query_count: int) -> None:
        self._catalog = catalog = clustered(items + items // 2, dimension)
        self._published = items
        self.vectors = catalog.vectors
        self.queries = queries(catalog, query_count)
        self._fields = catalog.items.drop_columns(["id"])
        self._held = np.arange(len(self.vectors)) < items
        self._new, self._old = items, 0
        self._rng = np.random.default_rng(0)
        self.replaced = 0

    def publish(self, work: Path, clusters: int) -> Path:
        """The snapshot of those that there are at first, made once in a folder; clusters are those of k-means."""
        items, dimension = self._published, self.vectors.shape[1]
        folder, version = work / f"live-{items}x{dimension}", f"clusters{clusters}"
        if not (folder / version).exists():
            table, schema = self._catalog.items.slice(0, items), self._catalog.schema
            publish(table, schema, folder, vectors=self.vectors[:items], clusters=clusters, version=version)
        return folder / version

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

    def note(self, writes: Sequence[Write]) -> None:
        """Take note of what was written."""
        upserted = [int(write.id) for write in writes if isinstance(write, Upsert)]
        self._held[[int(write.id) for write in writes if isinstance(write, Delete)]] = False
        self._held[upserted] = True
        self.replaced += len(upserted)

    def held(self) -> NDArray[np.bool_]:
        """Which vectors are items now, `[N]` bool."""
        return self._held.copy()

    def _upsert(self, row: int) -> Upsert:
        fields = {name: value[0] for name, value in self._fields.slice(row, 1).to_pydict().items()}
        return Upsert(row, self.vectors[row], fields)


def pack_body(writes: Sequence[Write]) -> bytes:
    """Writes as a body of `POST /v1/items`, in MessagePack."""
    body: dict[str, list[Any]] = {"upsert": [], "delete": [], "patch": []}
    for write in writes:
        match write:
            case Upsert():
                vector = write.vector.astype("<f4", copy=False).tobytes()
                body["upsert"].append({"id": write.id, "vector": vector, "fields": write.fields})
            case Delete():
                body["delete"].append(write.id)
            case Patch():
                body["patch"].append({"id": write.id, "fields": write.fields})
    return bytes(msgpack.packb(body))
