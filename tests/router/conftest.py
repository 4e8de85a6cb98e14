"""A catalog of random vectors, cut over shards that can be told to fail, and a router and an application over them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, Literal

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from virtual_time import VirtualLoop

from silverray.router.batch.fanout import Backend
from silverray.router.batch.gate import Gate
from silverray.router.batch.pulse import Pulse
from silverray.router.http.app import create_app
from silverray.router.router import Router
from silverray.router.settings import RouterSettings
from silverray.shard.api import (
    MAX_K,
    FilterError,
    InvalidRequest,
    SearchError,
    SearchReply,
    SearchRequest,
)
from silverray.shard.model.candidate_features import Traits
from silverray.shard.schema.keys import hash_texts
from silverray.shard.schema.user_features import UserFeatures

DIMENSION = 8
VERSION = "v1"


class Admitting:
    """Stands in for the catalog's admission: the same checks, a filter language of one number, formulas of `mood`."""

    valuer = SimpleNamespace(user_features=frozenset({"mood"}))
    filters = SimpleNamespace(find=lambda text: text)

    def admit(self, request: SearchRequest, where: str = "") -> SearchRequest:
        def path(name: str) -> str:
            return f"{where}.{name}" if where else name

        if not 1 <= request.k <= MAX_K:
            raise InvalidRequest(f"expected 1 to {MAX_K}, got {request.k}", path("k"))
        for name in request.fields:
            if name != "title":
                raise InvalidRequest(f"unknown field {name!r}", path("fields"))
        if isinstance(request.filter, str) and not request.filter.isdecimal():
            raise FilterError("unexpected text", 3, ["a number"], "write digits", path("filter"))
        if request.vectors is not None:
            if request.vectors.shape != (1, DIMENSION):
                shape = list(request.vectors.shape)
                raise InvalidRequest(f"expected [1, {DIMENSION}], got {shape}", path("vector"))
            if not np.isfinite(request.vectors).all():
                raise InvalidRequest("expected finite numbers", path("vector"))
        return request


Behaviour = Literal["well", "raise", "hang", "deaf", "cancel", "fewer", "junk", "refuse"]


@dataclass
class StubShard:
    """A brute-force searcher over its items; `does` and the others say how it misbehaves."""

    keys: NDArray[np.int64]
    vectors: NDArray[np.float32]
    text_ids: bool = False
    does: Behaviour = "well"
    delay_s: float = 0.0
    error: SearchError = field(default_factory=lambda: SearchError("broken"))
    version: str = VERSION
    seq: int = 7
    batches: list[list[SearchRequest]] = field(default_factory=list)
    cancelled: int = 0

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchReply | SearchError]:
        self.batches.append(list(requests))
        try:
            return await self._misbehave(requests)
        except asyncio.CancelledError:
            self.cancelled += 1
            if self.does == "deaf":
                await asyncio.sleep(0.3)
            raise

    async def _misbehave(self, requests: Sequence[SearchRequest]) -> list[SearchReply | SearchError]:
        await asyncio.sleep(self.delay_s)
        match self.does:
            case "raise":
                raise RuntimeError("lost")
            case "hang" | "deaf":
                await asyncio.Event().wait()
            case "cancel":
                raise asyncio.CancelledError
            case "refuse":
                return [self.error for _ in requests]
            case "junk":
                return [replace(self._reply(r), fields={}, keys=np.zeros(1)) for r in requests]  # type: ignore
        replies: list[SearchReply | SearchError] = [self._reply(request) for request in requests]
        return replies[:-1] if self.does == "fewer" else replies

    def _reply(self, request: SearchRequest) -> SearchReply:
        assert request.vectors is not None
        scores = (self.vectors * request.vectors[0]).sum(axis=1, dtype=np.float32)
        keys = self.keys
        order = np.lexsort((keys, -scores))[: request.k]
        names = [f"item {key}" for key in keys[order]]
        return SearchReply(
            ids=names if self.text_ids else keys[order],
            keys=keys[order],
            scores=scores[order],
            fields={"title": [f"Title {key}" for key in keys[order]]} if "title" in request.fields else {},
            version=self.version,
            seq=self.seq,
            explain={"plan": "stub"} if request.explain else None,
            traits=None if request.traits is None else self._traits(request.traits, order),
        )

    def _traits(self, names: Sequence[str], order: NDArray[np.intp]) -> Traits:
        codes = [self.keys[order] % 5 for _ in names]
        table = np.array(codes, dtype=np.int64).reshape(len(names), len(order))
        return Traits(self.vectors[order], table, np.zeros((len(order), 0), dtype=np.float32), {})


@dataclass
class House:
    """Shards, a router over them, and how to ask it."""

    shards: list[StubShard]
    router: Router
    client: httpx.AsyncClient
    whole: StubShard

    def best(self, query: NDArray[np.float32], k: int) -> SearchReply:
        return self.whole._reply(SearchRequest(vectors=query[np.newaxis], k=k))


def make_shards(n: int = 400, shards: int = 4, text_ids: bool = False) -> tuple[list[StubShard], StubShard]:
    rng = np.random.default_rng(5)
    keys = rng.choice(100_000, n, replace=False)
    if text_ids:
        keys = hash_texts(f"text {key}" for key in keys)
    # Small whole numbers: exact in any order of summation, and with many equal scores.
    vectors = rng.integers(-2, 3, (n, DIMENSION)).astype(np.float32)
    parts = [StubShard(keys[i::shards], vectors[i::shards], text_ids) for i in range(shards)]
    return parts, StubShard(keys, vectors, text_ids)


def make_catalog(items: int, user_features: UserFeatures | None = None) -> Any:
    fields = {"title": {"type": "category"}}
    schema = SimpleNamespace(model_dump=lambda mode: {"id": "item", "fields": fields}, categories=("artist",))
    return SimpleNamespace(
        version=VERSION,
        seq=7,
        items=items,
        partitions=8,
        id_type="int",
        dimension=DIMENSION,
        metric="ip",
        vector_space="v1",
        tasks=("default",),
        set_wise=False,
        user_features=user_features,
        schema=schema,
    )


MakeHouse = Callable[..., House]


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    virtual = "virtual_time" in request.fixturenames
    return ("asyncio", {"loop_factory": VirtualLoop}) if virtual else "asyncio"


@pytest.fixture
async def virtual_time(anyio_backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's loop, and every clock beside it, goes by what is waited for and not by what the machine takes."""
    clock = asyncio.get_running_loop().time
    monkeypatch.setattr(time, "monotonic", clock)
    for timed in (Gate, Pulse):
        monkeypatch.setattr(timed.__init__, "__defaults__", (clock,))


@pytest.fixture
async def make_house(anyio_backend: Any) -> AsyncIterator[MakeHouse]:
    houses: list[House] = []

    def make(
        *, encoder: Any = None, features: Any = None, status: Any = None, items: int = 400, **settings: Any
    ) -> House:
        shards, whole = make_shards(items)
        backends = [Backend(f"shard-{i}", shard, len(shard.keys)) for i, shard in enumerate(shards)]
        limits = RouterSettings(**({"deadline_s": 5.0} | settings))
        admission: Any = Admitting()
        router = Router(make_catalog(items, features), backends, encoder, settings=limits, admission=admission)
        transport = httpx.ASGITransport(create_app(router, status), raise_app_exceptions=False)
        client = httpx.AsyncClient(transport=transport, base_url="http://router")
        houses.append(House(shards, router, client, whole))
        return houses[-1]

    yield make
    for house in houses:
        await house.client.aclose()
        await house.router.close()


@pytest.fixture
def query() -> Iterator[NDArray[np.float32]]:
    yield np.array([2, -1, 0, 1, 1, 0, -2, 1], dtype=np.float32)
