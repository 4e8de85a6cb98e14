"""Ranking of given items: the answers of brute force, over any number of shards, and what is unknown."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest
from catalogs import make_requests

from silverray.router.batch.fanout import Backend
from silverray.router.http.app import create_app
from silverray.router.router import Router
from silverray.router.settings import RouterSettings
from silverray.shard.api import SearchReply, SearchRequest
from silverray.shard.engine.validation import Validator
from silverray.shard.query import Query, QueryBatch
from silverray.shard.result_batch import ResultBatch
from silverray.shard.schema.keys import partition_of
from silverray.shard.searcher import ExactSearch, ShardSearcher
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.value.settings import ValueSettings
from silverray.shard.value.valuer import Valuer

VALUE = ValueSettings.model_validate(
    {"default": "click + 2 * like", "variants": {"late": "context.hour * click"}, "context": {"hour": {"type": "int"}}}
)
Asked = list[Query]


class Watched:
    """A shard that remembers what it was asked."""

    def __init__(self, shard: ShardSearcher) -> None:
        self.shard = shard
        self.asked: Asked = []

    async def answer(self, batch: QueryBatch) -> ResultBatch:
        self.asked += batch
        return await self.shard.answer(batch)


def route(catalog: Catalog, shards: int, value: ValueSettings = VALUE) -> tuple[Router, list[Watched]]:
    parts = [tuple(range(n, catalog.partitions, shards)) for n in range(shards)]
    watched = [Watched(ShardSearcher.open(catalog.path, part, value=value)) for part in parts]
    backends = [
        Backend(f"s{n}", shard, catalog.items_in(part), part)
        for n, (shard, part) in enumerate(zip(watched, parts, strict=True))
    ]
    return Router(
        catalog,
        backends,
        settings=RouterSettings(deadline_s=50.0),
        validator=Validator(catalog, Valuer(value, catalog.tasks, catalog.schema)),
    ), watched


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client(two_tasks: Catalog, anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    router, _ = route(two_tasks, 3)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(router)), base_url="http://router") as client:
        yield client
    await router.close()


def user(seed: int = 1) -> np.ndarray:
    vectors = make_requests(1, seed, tasks=2)[0].vectors
    assert vectors is not None
    return vectors


async def whole(catalog: Catalog, **asked: Any) -> SearchReply:
    """Brute force over everything."""
    request = SearchRequest(vectors=user(), k=3_000, timeout_s=60.0, **asked)
    (reply,) = await ExactSearch.open(catalog.path, value=VALUE).search([request])
    assert isinstance(reply, SearchReply)
    return reply


@pytest.mark.anyio
async def test_given_items_get_the_scores_that_a_search_gives_them(
    two_tasks: Catalog, client: httpx.AsyncClient
) -> None:
    for asked in ({}, {"variant": "late", "context": {"hour": 5}}):
        truth = await whole(two_tasks, **asked)
        assert truth.tasks is not None
        ids = np.random.default_rng(0).permutation(truth.keys)[:1_000]
        given = [*ids.tolist(), 10**12, ids[0].item(), 10**12 + 1]
        body = {"vectors": user().tolist(), "ids": given, "deadline_ms": 60_000, "fields": ["title"], **asked}
        reply = (await client.post("/v1/rank", json=body)).json()
        chosen = np.isin(truth.keys, ids)
        assert [item["id"] for item in reply["items"]] == truth.keys[chosen].tolist()
        np.testing.assert_allclose([i["score"] for i in reply["items"]], truth.scores[chosen], rtol=1e-6, atol=1e-6)
        told = [[item["tasks"]["click"], item["tasks"]["like"]] for item in reply["items"]]
        np.testing.assert_allclose(told, truth.tasks.predictions[chosen], rtol=1e-6, atol=1e-6)
        assert reply["unknown"] == [10**12, 10**12 + 1]
        assert reply["items"][0]["fields"] == {"title": f"title {reply['items'][0]['id']} é"}
        assert reply["coverage"] == {"shards": 3, "answered": 3, "items_fraction": 1.0, "degraded": False}


@pytest.mark.anyio
async def test_each_shard_is_asked_for_the_items_of_its_partitions(two_tasks: Catalog) -> None:
    router, shards = route(two_tasks, 3)
    keys = (await whole(two_tasks)).keys[:200]
    await router.search([SearchRequest(vectors=user(), keys=keys, k=len(keys)), SearchRequest(vectors=user(), k=5)])
    for number, shard in enumerate(shards):
        asked = next(request for request in shard.asked if request.keys is not None)
        assert asked.keys is not None
        assert asked.keys.tolist() == keys[partition_of(keys, 8) % 3 == number].tolist()
    await router.close()


@pytest.mark.anyio
async def test_shards_without_any_of_the_items_answer_too(client: httpx.AsyncClient, two_tasks: Catalog) -> None:
    key = int((await whole(two_tasks)).keys[0])
    for ids, known in (([key], [key]), ([10**12], [])):
        reply = (await client.post("/v1/rank", json={"vectors": user().tolist(), "ids": ids})).json()
        assert [item["id"] for item in reply["items"]] == known
        assert reply["coverage"]["answered"] == 3


@pytest.mark.anyio
async def test_ids_may_be_texts_and_a_catalog_may_have_one_task(publish_items: Callable[..., Catalog]) -> None:
    made = publish_items(300, strings=True)
    router, _ = route(made, 2, ValueSettings())
    (truth,) = await ExactSearch.open(made.path).search([SearchRequest(vectors=user()[:1], k=300)])
    assert isinstance(truth, SearchReply)
    ids = list(truth.ids[:40])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(router)), base_url="http://router") as client:
        body = {"vector": user()[0].tolist(), "ids": [*reversed(ids), "nosuch"], "explain": True}
        reply = (await client.post("/v1/rank", json=body)).json()
    await router.close()
    assert [item["id"] for item in reply["items"]] == ids
    np.testing.assert_array_equal(np.array([item["score"] for item in reply["items"]], np.float32), truth.scores[:40])
    assert reply["unknown"] == ["nosuch"]
    assert sum(shard["ranked"] for shard in reply["explain"]["shards"].values()) == 40


@pytest.mark.anyio
async def test_message_pack_takes_ids_and_vectors_as_bins(two_tasks: Catalog, client: httpx.AsyncClient) -> None:
    keys = (await whole(two_tasks)).keys[:50]
    body = msgpack.packb({"vectors": user().astype("<f4").tobytes(), "ids": keys.astype("<i8").tobytes()})
    response = await client.post("/v1/rank", content=body, headers={"content-type": "application/msgpack"})
    assert [item["id"] for item in msgpack.unpackb(response.content)["items"]] == keys.tolist()


@pytest.mark.anyio
async def test_an_id_that_is_given_twice_counts_once(two_tasks: Catalog, client: httpx.AsyncClient) -> None:
    key = int((await whole(two_tasks)).keys[0])
    for ids, short in (([key] * 3, False), ([key, key, 10**12], True)):
        body = {"vectors": user().tolist(), "ids": ids, "explain": True}
        reply = (await client.post("/v1/rank", json=body)).json()
        assert [item["id"] for item in reply["items"]] == [key]
        assert reply["explain"]["short"] is short


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("change", "where", "message"),
    [
        ({"ids": []}, "ids", "expected 1 to 10000 ids, got 0"),
        ({"ids": list(range(10_001))}, "ids", "expected 1 to 10000 ids, got 10001"),
        ({"ids": [1, "2"]}, "ids[1]", "expected an integer of 0 to 2^63 - 1, got '2'"),
        ({"ids": [1, -2]}, "ids[1]", "got -2"),
        ({"ids": [True]}, "ids[0]", "got true"),
        ({"ids": 3}, "ids", "expected an array of ids, got integer"),
        ({"k": 3}, "k", "unknown key 'k'"),
        ({"variant": "nosuch"}, "variant", "no variant 'nosuch'; there are: default, late"),
        ({"variant": "late"}, "context.hour", "expected a value, got none"),
        ({"user": {}}, None, "expected exactly one of vector, vectors and user"),
    ],
)
async def test_a_wrong_ranking_is_refused(
    client: httpx.AsyncClient, change: dict[str, Any], where: str | None, message: str
) -> None:
    response = await client.post("/v1/rank", json={"vectors": user().tolist(), "ids": [1], **change})
    assert response.status_code == 422
    error = response.json()["error"]
    assert (error["where"], message in error["message"]) == (where, True), error


@pytest.mark.anyio
async def test_values_nested_as_deep_as_a_body_may_be_are_refused_like_others(client: httpx.AsyncClient) -> None:
    nested, vectors = "[" * 1_000 + "]" * 1_000, str(user().tolist())
    for path, part, where in (
        ("rank", f'"ids": [{nested}]', "ids[0]"),
        ("search", f'"variant": "late", "context": {{"hour": {nested}}}', "context.hour"),
    ):
        body = f'{{"vectors": {vectors}, {part}}}'.encode()
        response = await client.post(f"/v1/{path}", content=body)
        assert response.status_code == 422, response.text
        error = response.json()["error"]
        assert error["where"] == where and error["message"].endswith("got array")


@pytest.mark.anyio
async def test_a_search_says_what_each_task_makes_of_an_item(two_tasks: Catalog, client: httpx.AsyncClient) -> None:
    truth = await whole(two_tasks)
    assert truth.tasks is not None
    body = {"vectors": user().tolist(), "k": 5, "deadline_ms": 60_000}
    plain = (await client.post("/v1/search", json=body)).json()
    assert [item["id"] for item in plain["items"]] == truth.keys[:5].tolist()
    assert [set(item) for item in plain["items"]] == [{"id", "score", "tasks"}] * 5
    explained = (await client.post("/v1/search", json=body | {"explain": True})).json()
    for item, predictions in zip(explained["items"], truth.tasks.predictions, strict=False):
        np.testing.assert_allclose(list(item["tasks"].values()), predictions, rtol=1e-6)
        assert item["found_by"] and item["found_by"].items() <= item["tasks"].items()
    stages = explained["explain"]["shards"]["s0"]["stages"]
    assert [stage["stage"] for stage in stages] == ["retrieve", "unite", "score", "value", "select"]
    documents = (await client.get("/openapi.json")).json()
    assert documents["paths"]["/v1/rank"]["post"]["operationId"] == "rank"
    assert {"variant", "context", "ids"} <= set(documents["components"]["schemas"]["RankBody"]["properties"])


def test_a_request_with_keys_is_not_for_http() -> None:
    from silverray.router.http.client import _to_query

    with pytest.raises(Exception, match="keys do not travel over HTTP"):
        _to_query(replace(SearchRequest(vectors=user()), keys=np.array([1])))
