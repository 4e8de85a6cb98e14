"""The HTTP interface: forms, errors, back-pressure, reports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgpack
import numpy as np
import orjson
import pytest
from numpy.typing import NDArray

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("virtual_time")]

Vector = NDArray[np.float32]
JSON = {"content-type": "application/json"}
MESSAGE_PACK = {"content-type": "application/msgpack"}
GOOD = {"vector": [1, 0, 0, 2.5, 0, -1, 0, 0]}


async def post(house: Any, body: Any, **headers: str) -> Any:
    return await house.client.post("/v1/search", content=orjson.dumps(body), headers=JSON | headers)


async def post_packed(house: Any, body: Any, **headers: str) -> Any:
    return await house.client.post("/v1/search", content=msgpack.packb(body), headers=MESSAGE_PACK | headers)


async def test_one_query_in_json(make_house: Any, query: Vector) -> None:
    house = make_house()
    response = await post(house, {"vector": query.tolist(), "k": 3, "fields": ["title"], "explain": True})
    best = house.best(query, 3)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {
        "items": [
            {"id": key, "score": score, "fields": {"title": f"Title {key}"}}
            for key, score in zip(best.keys.tolist(), best.scores.tolist(), strict=True)
        ],
        "version": "v1",
        "seq": 7,
        "coverage": {"shards": 4, "answered": 4, "items_fraction": 1.0, "degraded": False},
        "explain": {"short": False, "shards": {f"shard-{i}": {"plan": "stub"} for i in range(4)}},
    }


async def test_json_and_message_pack_give_the_same(make_house: Any, query: Vector) -> None:
    house = make_house()
    plain = {"vector": query.tolist(), "k": 50, "fields": ["title"]}
    body = plain | {"vector": query.tobytes()}
    expected = (await post(house, plain)).json()
    for asked in (plain, body, plain | {"vector": None, "vectors": query.tobytes()}):
        response = await post_packed(house, asked)
        assert response.headers["content-type"] == "application/msgpack"
        assert msgpack.unpackb(response.content) == expected
    assert (await post(house, plain | {"vector": None, "vectors": [query.tolist()]})).json() == expected
    assert (await post_packed(house, body, accept="application/json")).json() == expected
    packed = await post(house, plain, accept="application/x-msgpack, application/json;q=0.9")
    assert msgpack.unpackb(packed.content) == expected


async def test_columns(make_house: Any, query: Vector) -> None:
    house = make_house()
    body = {"vector": query.tobytes(), "k": 5, "columns": True, "fields": ["title"]}
    result = msgpack.unpackb((await post_packed(house, body)).content)
    best = house.best(query, 5)
    assert result["ids"] == best.keys.astype("<i8").tobytes()
    assert result["scores"] == best.scores.astype("<f4").tobytes()
    assert result["fields"] == {"title": [f"Title {key}" for key in best.keys]}
    assert result["coverage"]["answered"] == 4 and "items" not in result


async def test_text_ids(make_house: Any, query: Vector) -> None:
    house = make_house()
    for shard in house.shards:
        shard.text_ids = True
    best = [f"item {key}" for key in house.best(query, 4).keys]
    rows = (await post(house, {"vector": query.tolist(), "k": 4})).json()["items"]
    assert [row["id"] for row in rows] == best
    columns = msgpack.unpackb((await post_packed(house, {"vector": query.tobytes(), "k": 4, "columns": True})).content)
    assert columns["ids"] == best


async def test_several_queries(make_house: Any, query: Vector) -> None:
    house = make_house()
    queries = [{"vector": (query * s).tolist(), "k": k} for s, k in [(1, 2), (-1, 300), (3, 5)] * 80]
    response = await post(house, {"queries": queries})
    results = response.json()["results"]
    assert len(results) == 240
    for i, (s, k) in enumerate([(1, 2), (-1, 300), (3, 5)]):
        best = house.best(query * s, k)
        assert [item["id"] for item in results[i]["items"]] == best.keys.tolist()


async def test_a_query_without_result_has_an_error_in_its_place(make_house: Any) -> None:
    house = make_house()
    house.shards[0].does = "raise"
    response = await post(house, {"queries": [GOOD, GOOD | {"min_coverage": 1.0}]})
    assert response.status_code == 200
    good, bad = response.json()["results"]
    assert len(good["items"]) == 10
    assert bad["error"]["code"] == "coverage_too_low"
    assert bad["error"]["where"] == "queries[1].min_coverage"
    response = await post(house, {"queries": [GOOD | {"min_coverage": 1.0}] * 2})
    assert response.status_code == 503 and response.headers["retry-after"] == "1"
    assert response.json()["error"]["where"] == "queries[0].min_coverage"


async def test_the_reply_of_ten_thousand_items(make_house: Any, query: Vector) -> None:
    house = make_house(items=12_000)
    response = await post(house, {"vector": query.tolist(), "k": 10_000})
    assert [item["id"] for item in response.json()["items"]] == house.best(query, 10_000).keys.tolist()


WRONG: list[tuple[Any, str | None, str]] = [
    ([], None, "expected an object, got array"),
    (3, None, "expected an object, got integer"),
    ({}, None, "exactly one of vector, vectors and user"),
    (GOOD | {"user": {}}, None, "exactly one of vector, vectors and user"),
    ({"vector": []}, "vector", "expected [1, 8], got [1, 0]"),
    ({"vector": [1] * 7}, "vector", "expected [1, 8], got [1, 7]"),
    ({"vector": [1] * 7 + [1e39]}, "vector", "finite"),
    ({"vector": [1] * 7 + ["1"]}, "vector", "got string at place 7"),
    ({"vector": [1] * 7 + [None]}, "vector", "got null at place 7"),
    ({"vector": [True] * 8}, "vector", "got boolean at place 0"),
    ({"vector": [[1] * 8]}, "vector", "got array at place 0"),
    ({"vector": "text"}, "vector", "expected an array of numbers, got string"),
    ({"vector": {"0": 1}}, "vector", "expected an array of numbers, got object"),
    ({"vectors": []}, "vectors", "expected a vector per task, got none"),
    ({"vectors": [[1] * 8, [1] * 7]}, "vectors", "lengths [8, 7]"),
    ({"vectors": [[1] * 8] * 2}, "vector", "expected [1, 8], got [2, 8]"),
    ({"user": {"age": 1}}, "user", "served without a user tower"),
    ({"user": [1]}, "user", "expected an object, got array"),
    (GOOD | {"k": 0}, "k", "greater than or equal to 1, got 0"),
    (GOOD | {"k": 10_001}, "k", "less than or equal to 10000, got 10001"),
    (GOOD | {"k": "10"}, "k", "expected a valid integer, got '10'"),
    (GOOD | {"k": 10.5}, "k", "integer, got 10.5"),
    (GOOD | {"k": True}, "k", "integer, got true"),
    (GOOD | {"k": None}, "k", "integer, got null"),
    (GOOD | {"fields": "title"}, "fields", "expected an array, got 'title'"),
    (GOOD | {"fields": ["title", 3]}, "fields[1]", "string, got 3"),
    (GOOD | {"fields": ["titel"]}, "fields", "unknown field 'titel'"),
    (GOOD | {"filter": 3}, "filter", "string, got 3"),
    (GOOD | {"mode": "fast"}, "mode", "'exact' or 'bloom', got 'fast'"),
    (GOOD | {"refine": "some"}, "refine", "'all', got 'some'"),
    (GOOD | {"n_probe": 0}, "n_probe", "greater than or equal to 1"),
    (GOOD | {"deadline_ms": 0}, "deadline_ms", "greater than 0, got 0"),
    (GOOD | {"deadline_ms": 60_001}, "deadline_ms", "expected at most 60000, got 60001"),
    (GOOD | {"deadline_ms": 60_000.01}, "deadline_ms", "expected at most 60000, got 60000.01"),
    (GOOD | {"min_seq": -1}, "min_seq", "greater than or equal to 0"),
    (GOOD | {"min_coverage": 1.5}, "min_coverage", "less than or equal to 1, got 1.5"),
    (GOOD | {"explain": "yes"}, "explain", "boolean, got 'yes'"),
    (GOOD | {"weights": "a"}, "weights", "unknown key 'weights'"),
    (GOOD | {"context": 3}, "context", "expected an object, got 3"),
    (GOOD | {"diversify": 0.3}, "diversify", "got 0.3"),
    (GOOD | {"diversify": {"strength": -0.1}}, "diversify.strength", "greater than or equal to 0, got -0.1"),
    (GOOD | {"diversify": {"strength": "0.3"}}, "diversify.strength", "valid number, got '0.3'"),
    (GOOD | {"diversify": {"strength": True}}, "diversify.strength", "valid number, got true"),
    (GOOD | {"diversify": {"strenght": 1}}, "diversify", "unknown key 'strenght': known are strength"),
    (GOOD | {"diversify": {}, "k": 1_001}, "k", "expected at most 1000 with diversify, got 1001"),
    ({"queries": [GOOD, GOOD | {"diversify": {}, "k": 1_001}]}, "queries[1].k", "at most 1000 with diversify"),
    ({"queries": [GOOD, GOOD | {"diversify": {"strength": -1}}]}, "queries[1].diversify.strength", "got -1"),
    (GOOD | {"traits": []}, "traits", "unknown key 'traits'"),
    (GOOD | {"n_prob": 3}, "n_prob", "did you mean 'n_probe'?"),
    (GOOD | {"columns": True}, "columns", "application/msgpack"),
    ({"queries": []}, "queries", "expected at least 1 item, got 0"),
    ({"queries": 3}, "queries", "expected an array, got 3"),
    ({"queries": [GOOD] * 257}, "queries", "expected at most 256, got 257"),
    ({"queries": [GOOD, 3]}, "queries[1]", "expected an object, got 3"),
    ({"queries": [GOOD], "k": 3}, "k", "unknown key 'k'"),
    ({"queries": [GOOD, GOOD | {"columns": False}]}, "queries[1].columns", "unknown key 'columns'"),
    ({"queries": [GOOD] * 3 + [GOOD | {"k": 0}]}, "queries[3].k", "got 0"),
    ({"queries": [GOOD] * 3 + [{"vector": [1]}]}, "queries[3].vector", "expected [1, 8], got [1, 1]"),
    ({"queries": [GOOD, {}]}, "queries[1]", "exactly one of"),
    ({"queries": [GOOD, GOOD | {"\u00fc" * 500: 1}]}, "queries[1]." + "\u00fc" * 100, "unknown key"),
]


@pytest.mark.parametrize(("body", "where", "message"), WRONG)
async def test_a_wrong_body(make_house: Any, body: Any, where: str | None, message: str) -> None:
    house = make_house()
    for response, decode in [(await post(house, body), orjson.loads)] + (
        [] if "columns" in repr(where) else [(await post_packed(house, body), msgpack.unpackb)]
    ):
        assert response.status_code == 422
        error = decode(response.content)["error"]
        assert (error["code"], error["where"]) == ("invalid_request", where)
        assert message in error["message"]
    assert all(not shard.batches for shard in house.shards), "nothing was sent"
    assert (await post(house, GOOD)).status_code == 200


async def test_a_wrong_filter_names_its_place(make_house: Any) -> None:
    house = make_house()
    response = await post(house, {"queries": [GOOD, GOOD, GOOD, GOOD | {"filter": "year >"}]})
    assert response.status_code == 422
    assert response.json()["error"] == {
        "code": "invalid_filter",
        "message": "unexpected text",
        "where": "queries[3].filter",
        "position": 3,
        "expected": ["a number"],
        "hint": "write digits",
    }
    assert (await post(house, GOOD)).status_code == 200


DEEP = b"[" * 100_000

MALFORMED: list[tuple[bytes, dict[str, str], int, str]] = [
    (b"", JSON, 400, "malformed_body"),
    (b"{", JSON, 400, "malformed_body"),
    (b'{"vector": [NaN]}', JSON, 400, "malformed_body"),
    (b'{"vector": [Infinity]}', JSON, 400, "malformed_body"),
    (b'{"vector": [1e999, 0, 0, 0, 0, 0, 0, 0]}', JSON, 0, ""),
    (b'{"filter": "\xff"}', JSON, 400, "malformed_body"),
    (b'{"filter": "\\ud800"}', JSON, 400, "malformed_body"),
    (b'{"filter": "\xed\xa0\x80"}', JSON, 400, "malformed_body"),
    (DEEP, JSON, 400, "malformed_body"),
    (b'{"user": ' + DEEP + b"}", JSON, 400, "malformed_body"),
    (b"", MESSAGE_PACK, 400, "malformed_body"),
    (b"\xc1", MESSAGE_PACK, 400, "malformed_body"),
    (b"\x81", MESSAGE_PACK, 400, "malformed_body"),
    (msgpack.packb(GOOD) + b"\x00", MESSAGE_PACK, 400, "malformed_body"),
    (b"\x91" * 100_000, MESSAGE_PACK, 400, "malformed_body"),
    (b"\xdd\xff\xff\xff\xff", MESSAGE_PACK, 400, "malformed_body"),
    (b"\x81\xa1\xff\x01", MESSAGE_PACK, 400, "malformed_body"),
    (msgpack.packb({1: 2}, strict_types=True), MESSAGE_PACK, 400, "malformed_body"),
    (msgpack.packb({b"k": 2}), MESSAGE_PACK, 422, "invalid_request"),
    (msgpack.packb({"vector": msgpack.ExtType(5, b"x")}), MESSAGE_PACK, 400, "malformed_body"),
    (msgpack.packb({"vector": msgpack.Timestamp(5)}), MESSAGE_PACK, 422, "invalid_request"),
    (msgpack.packb({"vector": b"\x00" * 31}), MESSAGE_PACK, 422, "invalid_request"),
    (msgpack.packb({"vectors": b"\x00" * 36}), MESSAGE_PACK, 422, "invalid_request"),
    (msgpack.packb({"vectors": b""}), MESSAGE_PACK, 422, "invalid_request"),
    (msgpack.packb({"vector": np.full(8, np.nan, "<f4").tobytes()}), MESSAGE_PACK, 422, "invalid_request"),
    (msgpack.packb({"vector": [float("inf")] * 8}), MESSAGE_PACK, 422, "invalid_request"),
    (msgpack.packb(GOOD | {"deadline_ms": float("nan")}), MESSAGE_PACK, 422, "invalid_request"),
    (b"k=3", {"content-type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
    (b"{}", {"content-type": "text/plain; charset=utf-8"}, 415, "unsupported_media_type"),
]


@pytest.mark.parametrize(("content", "headers", "status", "code"), MALFORMED)
async def test_a_malformed_body(
    make_house: Any, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    house = make_house()
    response = await house.client.post("/v1/search", content=content, headers=headers)
    packed = response.headers["content-type"] == "application/msgpack"
    error = (msgpack.unpackb if packed else orjson.loads)(response.content)["error"]
    if status:
        assert (response.status_code, error["code"]) == (status, code)
    else:
        assert response.status_code in (400, 422), "a number that is no double is refused one way or the other"
    assert set(error) == {"code", "message", "where"} and len(error["message"]) <= 400
    assert (await post(house, GOOD)).status_code == 200


async def test_bodies_over_the_limit(make_house: Any) -> None:
    house = make_house(max_body_bytes=1_000)
    response = await post(house, GOOD | {"filter": "1" * 2_000})
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"

    async def stream() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100

    response = await house.client.post("/v1/search", content=stream(), headers=JSON)
    assert response.status_code == 413
    assert (await post(house, GOOD)).status_code == 200


async def test_content_type_may_be_missing_or_carry_a_charset(make_house: Any) -> None:
    house = make_house()
    body = orjson.dumps(GOOD)
    assert (await house.client.post("/v1/search", content=body)).status_code == 200
    headers = {"content-type": "Application/JSON; charset=utf-8"}
    assert (await house.client.post("/v1/search", content=body, headers=headers)).status_code == 200


async def test_a_long_body_is_answered_the_same(make_house: Any) -> None:
    house = make_house()
    body = b" " * 100_000 + orjson.dumps(GOOD)
    long = await house.client.post("/v1/search", content=body, headers=JSON)
    assert long.json() == (await post(house, GOOD)).json()


async def test_the_default_deadline_and_that_of_the_body(make_house: Any) -> None:
    house = make_house(deadline_s=0.2)
    house.shards[0].delay_s = 0.6
    assert (await post(house, GOOD)).json()["coverage"]["degraded"] is True
    assert (await post(house, GOOD | {"deadline_ms": 5_000})).json()["coverage"]["degraded"] is False
    for shard in house.shards:
        shard.delay_s = 0.6
    response = await post(house, GOOD)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")


async def test_a_full_queue(make_house: Any) -> None:
    house = make_house(max_pending=4)
    for shard in house.shards:
        shard.delay_s = 0.3
    responses = await asyncio.gather(*(post(house, GOOD) for _ in range(10)))
    refused = [response for response in responses if response.status_code == 503]
    assert len(refused) == 6
    assert {response.json()["error"]["code"] for response in refused} == {"overloaded"}
    assert {response.headers["retry-after"] for response in refused} == {"1"}
    assert (await post(house, GOOD)).status_code == 200


async def test_an_unforeseen_fault_shows_no_trace(make_house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    house = make_house()

    async def fail(*_: Any) -> None:
        raise KeyError("secret")

    with monkeypatch.context() as patch:
        patch.setattr(house.router, "respond", fail)
        response = await post(house, GOOD)
    assert response.status_code == 500
    assert response.json() == {"error": {"code": "internal", "message": "internal error", "where": None}}
    assert (await post(house, GOOD)).status_code == 200


async def test_unknown_paths_and_methods(make_house: Any) -> None:
    house = make_house()
    missing = await house.client.get("/v1/nothing")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    wrong = await house.client.get("/v1/search")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"


async def test_below_a_path_of_its_own(make_house: Any) -> None:
    app = make_house().client._transport.app
    transport = httpx.ASGITransport(app, root_path="/films")
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        response = await client.post("/films/v1/search", content=orjson.dumps(GOOD), headers=JSON)
        assert (response.status_code, len(response.json()["items"])) == (200, 10)
        assert (await client.get("/films/healthz")).status_code == 200


async def test_ready_once_every_shard_has_answered(make_house: Any) -> None:
    house = make_house()
    house.shards[1].does = house.shards[2].does = "raise"
    response = await house.client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["error"]["message"].endswith("shard-1, shard-2")
    house.shards[1].does = house.shards[2].does = "well"
    assert (await house.client.get("/readyz")).status_code == 200
    house.shards[1].does = "raise"
    assert (await house.client.get("/readyz")).status_code == 200
    assert (await house.client.get("/healthz")).json() == {"status": "ok"}


async def test_schema_and_status(make_house: Any) -> None:
    async def more() -> dict[str, Any]:
        return {"replicas": 2}

    house = make_house(status=more)
    schema = (await house.client.get("/v1/schema")).json()
    assert schema == {
        "version": "v1",
        "seq": 7,
        "items": 400,
        "published_items": 400,
        "id_type": "int",
        "dimension": 8,
        "metric": "ip",
        "vector_space": "v1",
        "writes": False,
        "tasks": ["default"],
        "user_features": False,
        "schema": {"id": "item", "fields": {"title": {"type": "category"}}},
    }
    await post(house, GOOD)
    await post(house, GOOD | {"k": 0})
    status = (await house.client.get("/v1/status")).json()
    assert (status["requests"], status["replies"], status["errors"]) == (2, 1, {"invalid_request": 1})
    assert status["lateness_ms"]["count"] == 1 and status["lateness_ms"]["max"] == 0
    assert status["replicas"] == 2


async def test_a_report_that_fails(make_house: Any) -> None:
    async def broken() -> dict[str, Any]:
        raise KeyError("secret")

    response = await make_house(status=broken).client.get("/v1/status")
    assert response.status_code == 500 and "secret" not in response.text
    assert response.json()["error"]["code"] == "internal"


async def test_the_description(make_house: Any) -> None:
    house = make_house()
    document = (await house.client.get("/openapi.json")).json()
    search = document["paths"]["/v1/search"]["post"]
    assert set(search["responses"]) == {"200", "400", "403", "408", "413", "415", "422", "500", "503", "504"}
    assert set(search["requestBody"]["content"]) == {"application/json", "application/msgpack"}
    schemas = document["components"]["schemas"]
    assert schemas["SearchBody"]["additionalProperties"] is False
    assert "JavaScript" in schemas["ItemResult"]["properties"]["id"]["description"]
    assert "2^53" in document["info"]["description"]
    text = orjson.dumps(document).decode()
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in schemas
    assert (await house.client.get("/docs")).status_code == 200
