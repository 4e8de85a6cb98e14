"""Items below the least score of a search are left out, on every path, before lists are diversified or cut."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from catalogs import make_requests

from silverray.router.batch.fanout import Backend
from silverray.router.http.app import create_app
from silverray.router.http.client import HttpSearcher
from silverray.router.router import Router
from silverray.router.settings import DiversitySettings, RerankSettings, RouterSettings
from silverray.shard.api import InvalidRequest, Searcher, SearchReply, SearchRequest
from silverray.shard.engine.validation import Validator
from silverray.shard.limits import filled
from silverray.shard.local import LocalSearcher
from silverray.shard.searcher import ExactSearch, ShardSearcher
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.value.settings import ValueSettings
from silverray.shard.value.valuer import Valuer

VALUE = ValueSettings(default="click + 2 * like")
LONG_S = 60.0


def route(catalog: Catalog, shards: int, value: ValueSettings = ValueSettings(), **settings: Any) -> Router:  # noqa: B008
    parts = [tuple(range(n, catalog.partitions, shards)) for n in range(shards)]
    backends = [
        Backend(f"s{n}", ShardSearcher.open(catalog.path, part, value=value), catalog.items_in(part), part)
        for n, part in enumerate(parts)
    ]
    validator = Validator(catalog, Valuer(value, catalog.tasks, catalog.schema))
    return Router(catalog, backends, settings=RouterSettings(deadline_s=50.0, **settings), validator=validator)


def nest(catalog: Catalog) -> Router:
    return Router(catalog, [Backend("inner", route(catalog, 2), catalog.items)])


def over_http(catalog: Catalog) -> HttpSearcher:
    return HttpSearcher("http://test", httpx.ASGITransport(create_app(route(catalog, 2))))


def ask(searcher: Searcher, requests: Sequence[SearchRequest]) -> list[SearchReply]:
    async def run() -> list[Any]:
        return list(await searcher.search(requests))

    replies = asyncio.run(run())
    assert all(isinstance(reply, SearchReply) for reply in replies), replies
    return replies


def with_floors(requests: Sequence[SearchRequest], truth: Sequence[SearchReply]) -> list[SearchRequest]:
    """Requests with a least score that some of the items have; one is the very score of an item."""
    floors = [float(np.quantile(reply.scores, 0.7)) if len(reply.scores) else 0.0 for reply in truth]
    if len(truth[0].scores) > 3:
        floors[0] = float(truth[0].scores[3])
    return [replace(request, min_score=floor) for request, floor in zip(requests, floors, strict=True)]


def passing(reply: SearchReply, request: SearchRequest) -> SearchReply:
    assert request.min_score is not None
    return reply.take(np.flatnonzero(reply.scores >= request.min_score))


MAKERS: dict[str, Callable[[Catalog], Searcher]] = {
    "shard": lambda catalog: ShardSearcher.open(catalog.path),
    "router of 1": lambda catalog: route(catalog, 1),
    "router of 2": lambda catalog: route(catalog, 2),
    "router of 4": lambda catalog: route(catalog, 4),
    "router of routers": nest,
    "http": over_http,
}


@pytest.mark.parametrize("name", MAKERS)
def test_items_below_it_are_left_out_on_every_path(catalog: Catalog, name: str) -> None:
    plain = make_requests(30, 41, ks=(1, 10, 100), refine="all", n_probe=64, timeout_s=LONG_S, fields=("title",))
    everything = ask(ExactSearch.open(catalog.path), [replace(request, k=3_000, fields=()) for request in plain])
    asked = with_floors(plain, everything)
    dropped = 0
    for request, reply, truth in zip(asked, ask(MAKERS[name](catalog), asked), everything, strict=True):
        expected = passing(truth, request)
        dropped += len(expected.keys) < min(request.k, len(truth.keys))
        assert reply.keys.tolist() == expected.keys[: request.k].tolist()
        assert reply.scores.tolist() == expected.scores[: request.k].tolist()
        assert reply.fields["title"] == [f"title {key} é" for key in reply.keys]
    assert dropped >= 3


def test_embedded_search_leaves_them_out_too(catalog: Catalog) -> None:
    local = LocalSearcher.open(catalog.path)
    vectors = np.stack([request.vectors[0] for request in make_requests(9, 42) if request.vectors is not None])
    whole = local.search_batch(vectors, k=20)
    floor = float(np.median(whole.scores))
    found = local.search_batch(vectors, k=20, min_score=floor)
    for row, count in enumerate(found.counts.tolist()):
        assert count == (whole.scores[row] >= floor).sum()
        assert found.ids[row, :count].tolist() == whole.ids[row, :count].tolist()
        assert (found.ids[row, count:] == -1).all() and np.isneginf(found.scores[row, count:]).all()
    assert 0 < found.counts.sum() < 9 * 20
    assert local.search_batch(vectors, min_score=1e30).counts.tolist() == [0] * 9


@pytest.mark.parametrize("shards", [1, 4])
def test_quotas_are_filled_with_what_is_left(two_tasks: Catalog, shards: int) -> None:
    plain = make_requests(20, 43, ks=(5, 20), tasks=2, refine="all", n_probe=64, timeout_s=LONG_S)
    everything = ask(ExactSearch.open(two_tasks.path, value=VALUE), [replace(request, k=3_000) for request in plain])
    asked = with_floors(plain, everything)
    router = route(two_tasks, shards, VALUE, quotas={"click": 2, "like": 4})
    for request, reply, truth in zip(asked, ask(router, asked), everything, strict=True):
        expected = filled(passing(truth, request), request.k, (2, 4))
        np.testing.assert_allclose(reply.scores, expected.scores, rtol=1e-6, atol=1e-6)
        assert reply.keys.tolist() == expected.keys.tolist()


@pytest.mark.parametrize("shards", [1, 4])
def test_a_list_is_ranked_anew_before_it_counts(set_wise: Catalog, shards: int) -> None:
    plain = make_requests(10, 44, ks=(5, 20), tasks=2, refine="all", n_probe=64, timeout_s=LONG_S)
    router = route(set_wise, shards, VALUE, rerank=RerankSettings(window=40))
    whole = ask(router, plain)
    asked = [
        replace(request, min_score=float(np.median(reply.scores))) for request, reply in zip(plain, whole, strict=True)
    ]
    local = LocalSearcher.open(set_wise.path, value=VALUE, window=40)
    for request, reply, truth in zip(asked, ask(router, asked), whole, strict=True):
        assert reply.keys.tolist() == passing(truth, request).keys.tolist()
        found = local.search_batch(
            np.array([request.vectors]), request.filter, request.k, 64, refine="all", min_score=request.min_score
        )
        assert found.ids[0, : found.counts[0]].tolist() == reply.keys.tolist()


def test_a_list_is_diversified_without_them(catalog: Catalog) -> None:
    (request,) = make_requests(1, 45, ks=(10,), refine="all", n_probe=64, timeout_s=LONG_S, explain=True)
    request = replace(request, filter=None)
    (wide,) = ask(ExactSearch.open(catalog.path), [replace(request, k=40, explain=False)])
    request = replace(request, min_score=float(wide.scores[19]), diversify=5.0)
    (reply,) = ask(route(catalog, 2, diversity=DiversitySettings(window=6, oversample=4)), [request])
    assert reply.explain is not None and reply.explain["diversity"]["candidates"] == 20
    assert set(reply.keys.tolist()) <= set(wide.keys[:20].tolist()) and len(reply.keys) == 10


def test_given_items_are_all_ranked(two_tasks: Catalog) -> None:
    (request,) = make_requests(1, 46, tasks=2, timeout_s=LONG_S)
    request = replace(request, keys=np.arange(50), k=50, filter=None)
    plain, floored = ask(route(two_tasks, 2), [request, replace(request, min_score=1e30)])
    assert plain.keys.tolist() == floored.keys.tolist() and len(plain.keys) > 0


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 10**400, "0.5", True, [1]])
def test_it_is_a_number(catalog: Catalog, wrong: Any) -> None:
    request = SearchRequest(vectors=np.ones((1, 16), dtype=np.float32), min_score=wrong)
    (error,) = asyncio.run(ShardSearcher.open(catalog.path).search([request]))
    assert isinstance(error, InvalidRequest) and error.where == "min_score"


def test_a_body_may_say_it(catalog: Catalog) -> None:
    async def post(body: dict[str, Any]) -> httpx.Response:
        transport = httpx.ASGITransport(create_app(route(catalog, 2)))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.post("/v1/search", json=body)

    def run(made: Awaitable[httpx.Response]) -> Any:
        return asyncio.run(made).json()  # type: ignore[arg-type]

    vector = make_requests(1, 47)[0].vectors
    assert vector is not None
    body = {"vector": vector[0].tolist(), "k": 10}
    items = run(post(body))["items"]
    floor = items[4]["score"]
    assert run(post({**body, "min_score": floor}))["items"] == items[:5]
    assert run(post({**body, "min_score": 1e30}))["items"] == []
    assert run(post({**body, "min_score": -1e300}))["items"] == items
    error = run(post({**body, "min_score": "high"}))["error"]
    assert (error["code"], error["where"]) == ("invalid_request", "min_score")
