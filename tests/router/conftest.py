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
    FilterError,
    InvalidRequest,
    SearchError,
    SearchReply,
    SearchRequest,
)
from silverray.shard.filter.compiler import CompiledFilter, Plan
from silverray.shard.model.candidate_features import CandidateFeatures
from silverray.shard.query import Query, QueryBatch, UserQuery, plain_options
from silverray.shard.result_batch import Outcome, ResultBatch, featured
from silverray.shard.schema.keys import hash_texts
from silverray.shard.schema.user_features import UserFeatures

DIMENSION = 8
NOTHING = Plan(np.zeros(1, dtype=np.int32), None)
VERSION = "v1"


class Validating:
    """Stands in for the catalog's validator: the same checks, a filter language of one number, formulas of `mood`."""

    valuer = SimpleNamespace(user_features=frozenset({"mood"}))
    filters = SimpleNamespace(find=lambda text: text)

    def validate(self, request: SearchRequest, where: str = "", compiled: Any = None) -> Query | UserQuery:
        def path(name: str) -> str:
            return f"{where}.{name}" if where else name

        for name in request.fields:
            if name != "title":
                raise InvalidRequest(f"unknown field {name!r}", path("fields"))
        if isinstance(request.filter, str) and not request.filter.isdecimal():
            raise FilterError("unexpected text", 3, ["a number"], "write digits", path("filter"))
        options = plain_options(request, f"{where}." if where else "")
        options |= {"keys": request.keys, "fields": request.fields}
        if request.vectors is None:
            return UserQuery(user=request.user or {}, filter=self.compile(request.filter), **options)
        vectors = self.check_vectors(request.vectors, f"{where}." if where else "")
        return Query(vectors=vectors, filter=self.compile(request.filter), **options)

    def check_vectors(self, vectors: NDArray[np.float32], prefix: str = "") -> NDArray[np.float32]:
        if vectors.shape != (1, DIMENSION):
            raise InvalidRequest(f"expected [1, {DIMENSION}], got {list(vectors.shape)}", f"{prefix}vector")
        if not np.isfinite(vectors).all():
            raise InvalidRequest("expected finite numbers", f"{prefix}vector")
        return vectors

    def compile(self, text: str | None) -> CompiledFilter:
        return CompiledFilter(text, None, NOTHING, NOTHING)


Behaviour = Literal["well", "raise", "hang", "deaf", "cancel", "fewer", "junk", "refuse"]


@dataclass
class StubShard:
    """A brute-force shard over its items; `does` and the others say how it misbehaves."""

    keys: NDArray[np.int64]
    vectors: NDArray[np.float32]
    text_ids: bool = False
    does: Behaviour = "well"
    delay_s: float = 0.0
    error: SearchError = field(default_factory=lambda: SearchError("broken"))
    version: str = VERSION
    seq: int = 7
    batches: list[list[Query]] = field(default_factory=list)
    cancelled: int = 0

    async def answer(self, batch: QueryBatch) -> ResultBatch:
        queries = list(batch)
        self.batches.append(queries)
        try:
            return ResultBatch.of(await self._misbehave(queries), self.version)
        except asyncio.CancelledError:
            self.cancelled += 1
            if self.does == "deaf":
                await asyncio.sleep(0.3)
            raise

    async def _misbehave(self, queries: Sequence[Query]) -> list[Outcome]:
        await asyncio.sleep(self.delay_s)
        match self.does:
            case "raise":
                raise RuntimeError("lost")
            case "hang" | "deaf":
                await asyncio.Event().wait()
            case "cancel":
                raise asyncio.CancelledError
            case "refuse":
                return [self.error for _ in queries]
            case "junk":
                return [replace(self._reply(query), fields={}, keys=np.zeros(1, dtype=np.int64)) for query in queries]
        replies: list[Outcome] = [self._reply(query) for query in queries]
        return replies[:-1] if self.does == "fewer" else replies

    def _reply(self, query: Query) -> SearchReply:
        scores = (self.vectors * query.vectors[0]).sum(axis=1, dtype=np.float32)
        keys = self.keys
        order = np.lexsort((keys, -scores))[: query.k]
        names = [f"item {key}" for key in keys[order]]
        reply = SearchReply(
            ids=names if self.text_ids else keys[order],
            keys=keys[order],
            scores=scores[order],
            fields={"title": [f"Title {key}" for key in keys[order]]} if "title" in query.fields else {},
            version=self.version,
            seq=self.seq,
            explain={"plan": "stub"} if query.explain else None,
        )
        return reply if query.features is None else featured(reply, self._features(query.features, order))

    def _features(self, names: Sequence[str], order: NDArray[np.intp]) -> CandidateFeatures:
        codes = [self.keys[order] % 5 for _ in names]
        table = np.array(codes, dtype=np.int64).reshape(len(names), len(order))
        return CandidateFeatures(self.vectors[order], table, np.zeros((len(order), 0), dtype=np.float32), {})


@dataclass
class House:
    """Shards, a router over them, and how to ask it."""

    shards: list[StubShard]
    router: Router
    client: httpx.AsyncClient
    whole: StubShard

    def best(self, query: NDArray[np.float32], k: int) -> SearchReply:
        return self.whole._reply(small_query(query, k=k))


def small_query(vector: NDArray[np.float32], **options: Any) -> Query:
    return Query(vectors=vector[np.newaxis], filter=CompiledFilter(None, None, NOTHING, NOTHING), **options)


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
        validator: Any = Validating()
        router = Router(make_catalog(items, features), backends, encoder, settings=limits, validator=validator)
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
