"""Diversified searches through the router: what shards are asked, what is chosen, and what it does to others."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import MethodType
from typing import Any

import msgpack
import numpy as np
import orjson
import pytest
import torch
from numpy.typing import NDArray

from silverray.router.errors import Unavailable
from silverray.router.settings import DiversitySettings
from silverray.router.stages.diversify import Diversifier
from silverray.shard.api import InvalidRequest, SearchReply, SearchRequest
from silverray.shard.model.diversity import Diversity
from silverray.shard.query import Query

from .conftest import StubShard, small_query

pytestmark = pytest.mark.anyio

Vector = NDArray[np.float32]
SPACED = DiversitySettings(window=6, oversample=3, spacing={"artist": 0.5})


def ask(query: Vector, **given: Any) -> SearchRequest:
    return SearchRequest(vectors=query[np.newaxis], **given)


def expected(house: Any, query: Vector, k: int, strength: float) -> list[int]:
    """Keys as the module orders three times as many of the best."""
    reply = house.whole._reply(small_query(query, k=3 * k, features=("artist",)))
    order = Diversity(6, (0.5,))(
        torch.from_numpy(reply.scores)[None],
        torch.from_numpy(reply.features.vectors)[None],
        torch.ones(1, len(reply.keys), dtype=torch.bool),
        torch.tensor([strength]),
        k,
        torch.from_numpy(reply.features.codes)[None],
    )[0]
    return [int(reply.keys[place]) for place in order if place >= 0]


async def test_it_chooses_among_more_candidates_than_asked_for(make_house: Any, query: Vector) -> None:
    house = make_house(diversity=SPACED)
    plain, varied = await house.router.search(
        [ask(query, k=10, fields=("title",)), ask(query, k=10, fields=("title",), diversify=4.0, explain=True)]
    )
    assert isinstance(plain, SearchReply) and isinstance(varied, SearchReply)
    assert varied.keys.tolist() == expected(house, query, 10, 4.0)
    assert set(varied.keys.tolist()) != set(plain.keys.tolist())
    own = dict(zip(house.best(query, 400).keys.tolist(), house.best(query, 400).scores.tolist(), strict=True))
    assert varied.scores.tolist() == [own[key] for key in varied.keys.tolist()]
    np.testing.assert_array_equal(varied.ids, varied.keys)
    assert varied.fields["title"] == [f"Title {key}" for key in varied.keys]
    assert type(varied) is type(plain) is SearchReply
    assert varied.coverage == plain.coverage
    assert varied.explain is not None and varied.explain["short"] is False
    assert varied.explain["diversity"].items() >= {"candidates": 30, "strength": 4.0}.items()
    assert {(r.k, r.features, r.diversify) for shard in house.shards for batch in shard.batches for r in batch} == {
        (10, None, None),
        (30, ("artist",), None),
    }


async def test_requests_of_one_call_are_chosen_for_each_by_itself(make_house: Any, query: Vector) -> None:
    house = make_house(diversity=SPACED)
    asked = [ask(query * s, k=k, diversify=d) for s, k, d in [(1, 3, 2.0), (-1, 20, None), (2, 50, 9.0), (-1, 1, 0.5)]]
    together = await house.router.search(asked)
    for request, reply in zip(asked, together, strict=True):
        assert isinstance(reply, SearchReply) and request.vectors is not None
        if request.diversify is None:
            np.testing.assert_array_equal(reply.keys, house.best(request.vectors[0], request.k).keys)
        else:
            assert reply.keys.tolist() == expected(house, request.vectors[0], request.k, request.diversify)
    for shard in house.shards:
        shard.text_ids = True
    (texts,) = await house.router.search(asked[:1])
    assert isinstance(texts, SearchReply) and isinstance(together[0], SearchReply)
    assert texts.ids == [f"item {key}" for key in together[0].keys.tolist()]


async def test_strength_0_asks_and_answers_as_without(make_house: Any, query: Vector) -> None:
    house = make_house(diversity=SPACED)
    plain, same = await house.router.search([ask(query, k=25), ask(query, k=25, diversify=0.0)])
    np.testing.assert_array_equal(plain.keys, same.keys)
    assert all(request.features is None for request in house.shards[0].batches[0])


async def test_a_small_catalog_gives_what_there_is(make_house: Any, query: Vector) -> None:
    house = make_house(items=9, diversity=SPACED)
    (reply,) = await house.router.search([ask(query, k=20, diversify=3.0, explain=True)])
    assert isinstance(reply, SearchReply) and reply.explain is not None
    assert sorted(reply.keys.tolist()) == sorted(house.best(query, 9).keys.tolist())
    assert reply.explain["short"] is True


async def test_wrong_requests(make_house: Any, query: Vector) -> None:
    house = make_house()
    wrong = [
        (1, -0.5, "diversify.strength"),
        (1, float("nan"), "diversify.strength"),
        (1, 2e9, "diversify.strength"),
        (1_001, 0.5, "k"),
    ]
    for k, strength, where in wrong:
        (error,) = await house.router.search([ask(query, k=k, diversify=strength)])
        assert isinstance(error, InvalidRequest) and error.where == where
    assert not house.shards[0].batches


def tell_less(shard: StubShard, query: Query) -> SearchReply:
    return StubShard._reply(shard, replace(query, features=None))


async def test_a_missing_shard_and_one_that_tells_no_features(make_house: Any, query: Vector) -> None:
    house = make_house(diversity=SPACED)
    house.shards[1].does = "raise"
    (reply,) = await house.router.search([ask(query, diversify=1.0)])
    assert isinstance(reply, SearchReply) and len(reply.keys) == 10 and reply.coverage.degraded
    for shard in house.shards:
        shard._reply = MethodType(tell_less, shard)
    plain, error = await house.router.search([ask(query), ask(query, diversify=1.0)])
    assert isinstance(plain, SearchReply)
    assert isinstance(error, Unavailable) and error.where == "diversify"


async def test_over_http(make_house: Any, query: Vector) -> None:
    house = make_house(diversity=SPACED)

    async def post(body: Any) -> Any:
        response = await house.client.post("/v1/search", content=orjson.dumps(body))
        assert response.status_code == 200, response.text
        return response.json()

    body = {"vector": query.tolist(), "k": 12}
    plain = [item["id"] for item in (await post(body))["items"]]
    for given, strength in (({"strength": 4.0}, 4.0), ({}, 0.3), ({"strength": None}, 0.3)):
        found = await post(body | {"diversify": given})
        assert [item["id"] for item in found["items"]] == expected(house, query, 12, strength)
        assert set(found["items"][0]) == {"id", "score"}
    for none in (None, {"strength": 0}):
        assert [item["id"] for item in (await post(body | {"diversify": none}))["items"]] == plain
    packed = msgpack.packb({"queries": [body, body | {"diversify": {"strength": 4.0}}], "columns": True})
    response = await house.client.post("/v1/search", content=packed, headers={"content-type": "application/msgpack"})
    results = msgpack.unpackb(response.content)["results"]
    columns = [np.frombuffer(result["ids"], dtype="<i8").tolist() for result in results]
    assert columns == [plain, expected(house, query, 12, 4.0)]


async def test_a_million_unknown_keys_are_one_error(make_house: Any, query: Vector) -> None:
    given = {str(number): 1 for number in range(200_000)}
    body = orjson.dumps({"vector": query.tolist(), "diversify": given})
    response = await make_house().client.post("/v1/search", content=body)
    assert response.status_code == 422
    assert response.json()["error"]["message"] == "unknown key '0': known are strength"


async def test_the_description_names_it(make_house: Any) -> None:
    document = (await make_house().client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert "diversify" in schemas["SearchBody"]["properties"]
    assert set(schemas["DiversifyBody"]["properties"]) == {"strength"}


async def test_the_event_loop_goes_on_while_lists_are_chosen(make_house: Any, query: Vector) -> None:
    house = make_house(diversity=SPACED)
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(turn())
    original, started = house.router._stages[0]._choose, []

    def choose(lists: Any) -> Any:
        started.append(turns)
        return original(lists)

    house.router._stages[0]._choose = choose
    await house.router.search([ask(query, k=130, diversify=1.0)])
    task.cancel()
    assert started and turns > started[0]


async def test_long_lists_of_one_body_let_others_have_their_turn(make_house: Any, query: Vector) -> None:
    house = make_house(diversity=SPACED)
    large = asyncio.create_task(house.router.search([ask(query, k=400, diversify=1.0, timeout_s=60.0)] * 100))
    while not house.router._stages[0]._executor._threads:
        await asyncio.sleep(0.001)
    (small,) = await house.router.search([ask(query, k=5, diversify=1.0, timeout_s=60.0)])
    assert not large.done()
    first, *others = await large
    assert small.keys.tolist() == first.keys[:5].tolist() == expected(house, query, 5, 1.0)
    assert len(others) == 99 and all(reply.keys.tolist() == first.keys.tolist() for reply in others)


def test_spacing_must_name_a_filterable_category(make_house: Any) -> None:
    with pytest.raises(ValueError, match=r"diversity\.spacing\.artits: expected a filterable category .* \(artist\)"):
        make_house(diversity=DiversitySettings(spacing={"artits": 1.0}))


def test_a_diversifier_ends_its_thread(make_house: Any) -> None:
    house = make_house()
    diversifier = Diversifier(SPACED, house.router.catalog)
    diversifier.close()
    with pytest.raises(RuntimeError):
        diversifier._executor.submit(int)
