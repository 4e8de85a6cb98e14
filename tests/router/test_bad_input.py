"""Bad input over HTTP, against a real catalog: the status, the message, and the next good request is answered."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx
import msgpack
import numpy as np
import pytest

from silverray.router.batch.fanout import Backend
from silverray.router.http import schemas
from silverray.router.http.app import create_app
from silverray.router.http.parsing import parse_search
from silverray.router.router import Router
from silverray.router.settings import RouterSettings
from silverray.shard.api import InvalidRequest, SearchRequest
from silverray.shard.engine.validation import Validator
from silverray.shard.searcher import ShardSearcher
from silverray.shard.snapshot.catalog import Catalog

VECTOR = [0.5] * 16
PATIENT = RouterSettings(deadline_s=50.0)
Post = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def backend(catalog: Catalog) -> Backend:
    return Backend("only", ShardSearcher.open(catalog.path), catalog.items)


@pytest.fixture
def post(catalog: Catalog, backend: Backend) -> Post:
    """Send a body, then a good one that must be answered."""

    def send(content: bytes, media_type: str = "application/json") -> httpx.Response:
        async def run() -> httpx.Response:
            app = create_app(Router(catalog, [backend], settings=PATIENT))
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
                response = await client.post("/v1/search", content=content, headers={"content-type": media_type})
                good = await client.post("/v1/search", json={"vector": VECTOR, "k": 3, "deadline_ms": 10_000})
                assert good.status_code == 200 and len(good.json()["items"]) == 3
                return response

        return asyncio.run(run())

    return send


def changed(**change: Any) -> bytes:
    return json.dumps({"vector": VECTOR, **change}).encode()


LONG_LIST = ", ".join(str(number) for number in range(1_001))


@pytest.mark.parametrize(
    ("body", "status", "where", "message"),
    [
        (changed(vector=[1.0]), 422, "vector", "expected 16 dimensions, got 1"),
        (changed(vector=[float("nan")] * 16), 400, None, ""),
        (b'{"vector": [' + b"1e999, " * 15 + b"1]}", 400, None, "infinity"),
        (changed(vector=[1e300] * 16), 422, "vector", "float32"),
        (changed(vector="abc"), 422, "vector", ""),
        (changed(vector=None), 422, None, "vector"),
        (changed(user={"age": 3}), 422, None, ""),
        (changed(k=0), 422, "k", "got 0"),
        (changed(k=10_001), 422, "k", "10001"),
        (changed(k="ten"), 422, "k", "integer"),
        (changed(n_probe=0), 422, "n_probe", ""),
        (changed(n_probe=2**63), 422, "n_probe", "got 9223372036854775808"),
        (changed(mode="sloppy"), 422, "mode", "exact"),
        (changed(refine="some"), 422, "refine", "all"),
        (changed(deadline_ms=-1), 422, "deadline_ms", ""),
        (changed(min_coverage=2), 422, "min_coverage", ""),
        (changed(fields=["nothing"]), 422, "fields[0]", "no payload field 'nothing'"),
        (changed(surprise=1), 422, "surprise", ""),
        (changed(filter="nope = 1"), 422, "filter", "nope"),
        (changed(filter='year = "1990"'), 422, "filter", "year"),
        (changed(filter="year >"), 422, "filter", ""),
        (changed(filter="country < 3"), 422, "filter", "country"),
        (changed(filter="(" * 65 + "live_show" + ")" * 65), 422, "filter", "64"),
        (changed(filter="year = 1 or " * 2_000 + "year = 1"), 422, "filter", "16"),
        (changed(filter=f"year in ({LONG_LIST})"), 422, "filter", "1,000"),
        (changed(filter=7), 422, "filter", "string"),
        (b"", 400, None, ""),
        (b"{", 400, None, ""),
        (b"[1]", 422, None, ""),
        (b'{"vector": "\xff\xfe"}', 400, None, ""),
        (json.dumps({"queries": [{"vector": VECTOR}, {"vector": VECTOR, "filter": "year >"}]}).encode(), 422,
         "queries[1].filter", ""),
        (json.dumps({"queries": []}).encode(), 422, "queries", ""),
        (json.dumps({"queries": [{"vector": VECTOR}] * 257}).encode(), 422, "queries", "256"),
        (b" " * ((16 << 20) + 1), 413, None, ""),
    ],
)  # fmt: skip
def test_bad_json_is_refused_with_its_place(post: Post, body: bytes, status: int, where: str, message: str) -> None:
    response = post(body)
    error = response.json()["error"]
    assert response.status_code == status, error
    assert message.lower() in error["message"].lower(), error
    assert error["code"] and error["message"]
    if where is not None:
        assert error["where"] == where


def test_a_filter_error_says_where_and_what_would_do(post: Post) -> None:
    error = post(changed(filter="yaer >= 1990")).json()["error"]
    assert error["code"] == "invalid_filter"
    assert error["position"] == 0
    assert "year" in error["hint"]
    error = post(changed(filter="year >= 1990 and")).json()["error"]
    assert error["position"] == 16
    assert error["expected"]


def test_a_number_of_clusters_beyond_int64_is_refused_by_the_validator_too(catalog: Catalog) -> None:
    request = SearchRequest(vectors=np.full((1, 16), 0.5, dtype=np.float32), n_probe=2**63)
    with pytest.raises(InvalidRequest, match="n_probe: expected 1 to"):
        Validator(catalog).validate(request)
    assert Validator(catalog).validate(replace(request, n_probe=2**63 - 1)).n_probe == 2**63 - 1


def test_a_length_of_thousands_of_digits_is_too_large(catalog: Catalog, backend: Backend) -> None:
    async def run() -> httpx.Response:
        app = create_app(Router(catalog, [backend], settings=PATIENT))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
            return await client.post("/v1/search", content=b"{}", headers={"content-length": "9" * 5_000})

    assert asyncio.run(run()).status_code == 413


def test_a_field_is_read_once_however_often_a_body_names_it(catalog: Catalog, post: Post) -> None:
    # A shard would read a column a million times, and answer nobody else for a minute.
    vectors = np.full((1, 16), 0.5, dtype=np.float32)
    query = Validator(catalog).validate(SearchRequest(vectors=vectors, fields=("title", "year") * 500_000))
    assert query.fields == ("title", "year")
    response = post(changed(fields=["title", "year", "title"]))
    assert list(response.json()["items"][0]["fields"]) == ["title", "year"]
    error = post(changed(fields=["title", "title", "nothing"])).json()["error"]
    assert error["where"] == "fields[2]"


@pytest.mark.parametrize("name", ["fields", "variant"])
def test_a_name_that_there_is_not_is_not_sent_back_whole(post: Post, name: str) -> None:
    wrong = "x" * 100_000
    response = post(changed(**{name: [wrong] if name == "fields" else wrong}))
    assert response.status_code == 422
    assert len(response.content) < 1_000


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"\xc1", 400),
        (msgpack.packb({"vector": b"\x00" * 63}), 422),
        (msgpack.packb({"vector": np.full(16, np.nan, "<f4").tobytes()}), 422),
        (msgpack.packb({"vector": np.ones(15, "<f4").tobytes()}), 422),
        (msgpack.packb({b"\xff": 1}), 422),
        (msgpack.packb({"user": {b"age": 1}}), 422),
        (msgpack.packb({"vector": [0.5] * 16, "context": {b"hour": 1}}), 422),
    ],
)
def test_bad_message_pack_is_refused(post: Post, body: bytes, status: int) -> None:
    response = post(body, "application/msgpack")
    assert response.status_code == status
    assert msgpack.unpackb(response.content)["error"]["message"]


@pytest.mark.parametrize(
    ("change", "where", "message"),
    [
        ({"vectors": [[]] * 2_000_000}, "vectors", "expected a vector per task, got 2000000"),
        ({"user": {str(n).encode(): 0 for n in range(500_000)}}, "user", "expected strings as keys, got bin"),
        ({"context": {str(n).encode(): 0 for n in range(500_000)}}, "context", "expected strings as keys, got bin"),
    ],
)
def test_what_a_body_repeats_a_million_times_is_refused_at_the_first(
    change: dict[str, Any], where: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[object] = []
    monkeypatch.setattr(schemas, "read_vector", lambda value: reads.append(value))
    document = {"vectors": None, **change}
    with pytest.raises(InvalidRequest) as raised:
        parse_search(document, 16, RouterSettings())
    assert (raised.value.where, raised.value.message) == (where, message)
    assert not reads


def test_other_content_types_are_refused(post: Post) -> None:
    response = post(b"a=b", "application/x-www-form-urlencoded")
    assert response.status_code == 415


async def _ask_as_described(catalog: Catalog, backend: Backend) -> None:
    app = create_app(Router(catalog, [backend], settings=PATIENT))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        paths = (await client.get("/openapi.json")).json()["paths"]
        for path in ("/v1/search", "/v1/rank"):
            example = paths[path]["post"]["requestBody"]["content"]["application/json"]["example"]
            response = await client.post(path, json=example | {"deadline_ms": 10_000})
            assert response.status_code == 200, response.text
        assert "example" not in paths["/v1/items"]["post"]["requestBody"]["content"]["application/json"]
        page = await client.get("/docs")
        assert page.status_code == 200 and "deadline_ms" in page.text


def test_the_examples_of_the_description_are_answered_as_they_stand(catalog: Catalog, backend: Backend) -> None:
    asyncio.run(_ask_as_described(catalog, backend))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (msgpack.packb({None: 1}), "expected strings as keys"),
        (msgpack.packb({1: 1}), "expected strings as keys"),
        (b"\x91" * 5_000, "nested too deep"),
        (b"\xc1", "malformed"),
    ],
)
def test_a_body_that_cannot_be_read_is_told_without_words_of_python(post: Post, body: bytes, reason: str) -> None:
    message = post(body, "application/msgpack").content
    assert msgpack.unpackb(message)["error"]["message"] == f"not application/msgpack: {reason}"
