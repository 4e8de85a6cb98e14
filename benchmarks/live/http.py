"""Updates of a service over HTTP, for `silverray bench live`: what they cost searches, and how soon they are seen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import httpx
import msgpack

from silverray.benchmarks.common.clients import SETTLE_S, Traffic, post, run_clients
from silverray.benchmarks.common.processes import cpu_seconds
from silverray.benchmarks.live.items import LiveItems, pack_body
from silverray.benchmarks.live.load import BODY, Maker
from silverray.cluster.config import HttpConfig, LogConfig, ServeConfig
from silverray.cluster.serving.service import Service, start

SHARDS, CLIENTS, K = 2, 64, 10
"""As in `silverray bench http` where it is busiest, so that losses can be held against its rates."""
DEADLINE_MS = 2_000.0
"""Searches are slowed, not refused: none is cut short."""
MEDIA_TYPE = "application/msgpack"


class Seen(NamedTuple):
    """What became of one body.

    Attributes:
        acknowledged_s: from when it was sent until it was acknowledged.
        visible_s: from then until a search was answered that had asked for it (`min_seq`), all of its own time counted.
    """

    acknowledged_s: float
    visible_s: float


class HttpWindow(NamedTuple):
    """Searches, and the bodies that were written meanwhile."""

    traffic: Traffic
    seen: Sequence[Seen]


class LiveService:
    """A service that is searched and written over HTTP.

    Args:
        service: it.
        items: those that it holds.
    """

    def __init__(self, service: Service, items: LiveItems) -> None:
        self._search_url, self._items_url = f"{service.url}/v1/search", f"{service.url}/v1/items"
        bodies = [msgpack.packb({"vector": query.astype("<f4").tobytes(), "k": K}) for query in items.queries]
        self._requests = [post(self._search_url, body, MEDIA_TYPE) for body in bodies]
        self._query = items.queries[0].astype("<f4").tobytes()
        self._items = items
        self._client = httpx.Client(headers={"content-type": MEDIA_TYPE}, trust_env=False, timeout=30.0)

    def search(self, seconds: float, rate: float, make: Maker) -> HttpWindow:
        """Search with `CLIENTS` in a closed loop and write so many items a second meanwhile."""
        seen: list[Seen] = []
        prepared = [make(BODY) for _ in range(round((SETTLE_S + seconds) * rate / BODY))]
        bodies = [pack_body(writes) for writes in prepared]
        writer = threading.Thread(target=self._write_at, args=(bodies, BODY / rate if rate else 0.0, seen))
        writer.start()
        traffic = run_clients(self._search_url, self._requests, CLIENTS, seconds, mark=b"score", marks=K)
        writer.join()
        for writes in prepared:
            self._items.note(writes)
        return HttpWindow(traffic, seen)

    def cost(self, seconds: float, rate: float, make: Maker) -> dict[str, float]:
        """CPU microseconds of an item by part of the service, where nothing is searched."""
        idle = _spent(lambda: time.sleep(seconds))
        prepared = [make(BODY) for _ in range(round(seconds * rate / BODY))]
        bodies = [pack_body(writes) for writes in prepared]
        busy = _spent(lambda: self._write_at(bodies, BODY / rate, None))
        for writes in prepared:
            self._items.note(writes)
        parts = {"router": 0.0, "shards": 0.0, "log": 0.0, "haproxy": 0.0, "ray": 0.0}
        for name, spent in busy.items():
            part = "shards" if "-shard-" in name else "router" if name.endswith("-router") else name
            parts[part] += 1e6 * (spent - idle.get(name, 0.0)) / (len(bodies) * BODY)
        return parts

    def close(self) -> None:
        """Close the connection of the writer."""
        self._client.close()

    def _write_at(self, bodies: Sequence[bytes], interval_s: float, seen: list[Seen] | None) -> None:
        """Write a body at a time, and note how soon it was seen unless nobody asks for that."""
        due = time.perf_counter() + interval_s / 2
        for body in bodies:
            time.sleep(max(0.0, due - time.perf_counter()))
            sent = time.perf_counter()
            seq = self._ask(self._items_url, body)["seq"]
            acknowledged = time.perf_counter()
            if seen is not None:
                self._ask(self._search_url, msgpack.packb({"vector": self._query, "k": 1, "min_seq": seq}))
                seen.append(Seen(acknowledged - sent, time.perf_counter() - acknowledged))
            due += interval_s

    def _ask(self, url: str, body: bytes) -> dict[str, Any]:
        reply: dict[str, Any] = msgpack.unpackb(self._client.post(url, content=body).raise_for_status().content)
        return reply


def _spent(work: Callable[[], object]) -> dict[str, float]:
    """CPU seconds of the service's processes, by name, while something is done."""
    before = cpu_seconds()
    work()
    return {name: seconds - before.get(name, 0.0) for name, seconds in cpu_seconds().items()}


@contextmanager
def served(snapshot: Path, items: LiveItems) -> Iterator[LiveService]:
    """A snapshot served with a log of its own."""
    with TemporaryDirectory(prefix="live-", dir=snapshot.parent.parent) as folder:
        store = Path(folder) / "store"
        store.mkdir()
        (store / snapshot.name).symlink_to(snapshot.resolve())
        config = ServeConfig(
            snapshots=store,
            version=snapshot.name,
            shards=SHARDS,
            deadline_ms=DEADLINE_MS,
            http=HttpConfig(port=0),
            log=LogConfig(path=Path(folder) / "updates.db"),
        )
        with start(config) as service, closing(LiveService(service, items)) as live:
            yield live
