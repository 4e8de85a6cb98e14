"""The edge of the HTTP interface: forms, names, pages of elsewhere, keys given twice, and sizes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import httpx
import msgpack
import numpy as np
import orjson
import pytest

from silverray.router.callers import Callers
from silverray.router.errors import MalformedBody, Unavailable
from silverray.router.http.app import create_app
from silverray.router.http.client import HttpSearcher
from silverray.router.http.codecs import JSON, MESSAGE_PACK, reply_codec
from silverray.router.http.strict_json import loads_strict
from silverray.router.writes.counting import ItemCount
from silverray.router.writes.item_writer import ItemWriter
from silverray.shard.api import ReplyTooLarge, SearchReply, SearchRequest
from silverray.shard.engine.reply_sizes import bounded
from silverray.shard.live.sizes import ItemSizes

from .test_items import Door, MemoryLog

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("virtual_time")]

TYPE = {"content-type": "application/json"}
GOOD: dict[str, Any] = {"vector": [1.0] * 8}
LOCAL = Callers.of("127.0.0.1", None, [])


async def ask(house: Any, method: str, path: str, headers: dict[str, str], body: Any = None) -> httpx.Response:
    content = None if body is None else orjson.dumps(body)
    response: httpx.Response = await house.client.request(method, path, headers=headers, content=content)
    return response


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "GZIP, identity"])
async def test_a_compressed_body_is_refused_by_the_name_of_its_encoding(make_house: Any, encoding: str) -> None:
    house = make_house()
    content = gzip.compress(orjson.dumps(GOOD))
    headers = TYPE | {"content-encoding": encoding}
    for path in ("/v1/search", "/v1/rank", "/v1/items"):
        response = await house.client.post(path, content=content, headers=headers)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (415, "unsupported_media_type")
        assert (error["where"], encoding in error["message"]) == ("Content-Encoding", True)
    plain = await ask(house, "POST", "/v1/search", TYPE | {"content-encoding": "identity"}, GOOD)
    assert plain.status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/schema", "/v1/status", "/docs", "/openapi.json"])
async def test_head_is_get_without_its_body(make_house: Any, path: str) -> None:
    house = make_house()
    got, head = [await ask(house, method, path, {}) for method in ("GET", "HEAD")]
    assert (head.status_code, head.content) == (got.status_code, b"") == (200, b"")
    assert head.headers["content-type"] == got.headers["content-type"]


async def test_head_tells_that_shards_are_missing(make_house: Any) -> None:
    house = make_house()
    house.shards[0].does = "raise"
    assert (await ask(house, "HEAD", "/readyz", {})).status_code == 503
    assert (await ask(house, "HEAD", "/v1/search", {})).status_code == 405


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", MESSAGE_PACK),
        ("*/*", MESSAGE_PACK),
        ("application/json", JSON),
        ("application/msgpack;q=0, application/json", JSON),
        ("application/msgpack;q=0, */*", JSON),
        ("application/msgpack;q=0", JSON),
        ("application/x-msgpack;q=0.5, application/json;q=0.9", JSON),
        ("application/json;q=0.5, application/x-msgpack;q=0.9", MESSAGE_PACK),
        ("application/json;q=0.5, */*;q=0.1", JSON),
        ("application/*;q=0.5, application/json;q=0.1", MESSAGE_PACK),
        ("Application/JSON; q=1.0", JSON),
        ("application/json;q=0, application/msgpack;q=0", MESSAGE_PACK),
        ("text/html", MESSAGE_PACK),
        ("application/json;q=many", JSON),
        (",;,", MESSAGE_PACK),
    ],
)
def test_the_form_that_a_client_would_rather_have(accept: str, form: Any) -> None:
    assert reply_codec(accept, MESSAGE_PACK) is form


async def test_errors_too_have_the_form_that_is_wanted(make_house: Any) -> None:
    house = make_house(callers=LOCAL)
    accept = {"accept": "application/json;q=0.1, application/msgpack", "host": "localhost"}
    for response, status in [
        (await ask(house, "POST", "/v1/search", TYPE | accept, GOOD | {"k": 0}), 422),
        (await ask(house, "GET", "/nothing", accept), 404),
        (await ask(house, "GET", "/healthz", accept | {"host": "evil.example"}), 403),
    ]:
        assert response.status_code == status
        assert set(msgpack.unpackb(response.content)["error"]) == {"code", "message", "where"}


async def test_writes_say_what_they_are(make_house: Any) -> None:
    door = Door(make_house())
    content = orjson.dumps({"delete": [1]})
    response = await door.client.post("/v1/items", content=content)
    assert response.status_code == 415 and response.json()["error"]["where"] == "Content-Type"
    assert not door.log.records
    assert (await door.client.post("/v1/items", content=content, headers=TYPE)).status_code == 200


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:8000", "http://evil.example", 403),
        ("127.0.0.1:8000", "null", 403),
        ("127.0.0.1:8000", "http://127.0.0.1:9000", 403),
        ("127.0.0.1:8000", "http://127.0.0.1:8000", 200),
        ("localhost", "http://localhost:80", 200),
        ("localhost:8000", "http://LOCALHOST:8000", 200),
        ("127.0.0.1:8000", "https://films.example", 200),
        ("127.0.0.1:8000", "https://films.example.evil", 403),
        ("127.0.0.1:8000", None, 200),
        ("films.example", "https://films.example", 200),
        ("evil.example:8000", None, 403),
        ("evil.example", "http://evil.example", 403),
        ("127.0.0.1.evil.example", None, 403),
        ("[::1]:8000", "http://[::1]:8000", 200),
        ("[::2]:8000", None, 403),
    ],
)
async def test_pages_of_elsewhere_may_not_send(make_house: Any, host: str, origin: str | None, status: int) -> None:
    callers = Callers.of("127.0.0.1", ["films.example"], ["https://films.example"])
    house = make_house(callers=callers)
    headers = TYPE | {"host": host} | ({} if origin is None else {"origin": origin})
    response = await ask(house, "POST", "/v1/search", headers, GOOD)
    assert response.status_code == status
    if status == 403:
        assert response.json()["error"]["code"] in ("foreign_host", "foreign_origin")
        assert all(not shard.batches for shard in house.shards)


async def test_a_name_that_is_made_to_point_here_reads_nothing(make_house: Any) -> None:
    house = make_house(callers=LOCAL)
    for path in ("/v1/schema", "/v1/status", "/docs", "/healthz"):
        response = await ask(house, "GET", path, {"host": "evil.example:8000"})
        assert (response.status_code, response.json()["error"]["code"]) == (403, "foreign_host")
        assert (await ask(house, "GET", path, {"host": "localhost:8000"})).status_code == 200
    open_to_all = make_house(callers=Callers.of("0.0.0.0", None, []))
    assert (await ask(open_to_all, "GET", "/v1/schema", {"host": "films.example"})).status_code == 200
    named = make_house(callers=Callers.of("0.0.0.0", ["films.example"], []))
    assert (await ask(named, "GET", "/v1/schema", {"host": "evil.example"})).status_code == 403


async def test_pages_that_are_named_may_read_too(make_house: Any) -> None:
    page = "https://films.example"
    house = make_house(callers=Callers.of("0.0.0.0", None, [page]))
    asks = {"origin": page, "access-control-request-method": "POST", "access-control-request-headers": "content-type"}
    before = await ask(house, "OPTIONS", "/v1/search", asks)
    answer = await ask(house, "POST", "/v1/search", TYPE | {"origin": page}, GOOD)
    assert before.status_code == answer.status_code == 200
    assert before.headers["access-control-allow-origin"] == answer.headers["access-control-allow-origin"] == page
    foreign = await ask(house, "OPTIONS", "/v1/search", asks | {"origin": "https://evil.example"})
    assert foreign.status_code == 403


TWICE = [
    (b'{"filter": "1", "filter": null}', "'filter'"),
    (b'{"a" \n: 1, "a":2}', "'a'"),
    (b'{"a": [1, {"b": 1, "b": 2}]}', "'b'"),
    (b'{"\\u0061": 1, "a": 2}', "'a'"),
    (b'{"q": [{"k": "x: y"}, {"user": {"n": ":", "n": {}}}]}', "'n'"),
    (b'{"k": {"k": 1}, "k": 2}', "'k'"),
]


@pytest.mark.parametrize(("body", "name"), TWICE)
def test_a_key_may_stand_once(body: bytes, name: str) -> None:
    with pytest.raises(MalformedBody, match=f"key {name} stands twice"):
        JSON.decode(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"filter": "a: b \\": c", "a": {"a": [{"a": 1}, {"a": ":"}]}, "v": [1, 2]}',
        b'{"v": [1, {"a": 1}, {"a": 2}], "big": 123456789012345678901234567890, "x": 1e300}',
        b'[":", "\\":", {}, []]',
        b'"a"',
    ],
)
def test_keys_that_stand_once_are_read(body: bytes) -> None:
    assert loads_strict(body) == json.loads(body)


@pytest.mark.parametrize("whole", [2**63, 2**64 - 1, 2**64, 2**64 + 1, -(2**63) - 1, 10**300, -(10**19)])
def test_integers_of_any_length_stay_what_they_are(whole: int) -> None:
    body = {"patch": [{"id": 1, "fields": {"price": whole, "other": 0.1}}], "vector": [0.1, 1e300]}
    document = loads_strict(json.dumps(body).encode())
    assert document == body and type(document["patch"][0]["fields"]["price"]) is int


@pytest.mark.parametrize("text", [b"1.8446744073709552e19", b"18446744073709551617.0", b"-1e300", b"1.5", b"[1e300]"])
def test_floats_stay_floats(text: bytes) -> None:
    body = b'{"price": %b}' % text
    assert repr(loads_strict(body)) == repr(orjson.loads(body))


def test_a_key_that_stands_twice_beside_a_long_integer_is_refused() -> None:
    with pytest.raises(ValueError, match="key 'k' stands twice"):
        loads_strict(b'{"k": 18446744073709551617, "k": 1}')


async def test_a_key_that_stands_twice_is_refused_over_http(make_house: Any) -> None:
    house = make_house()
    packed = b"\x82\xa1k\x01\xa1k\x02"
    for content, headers in [(b'{"k": 1, "k": 2}', TYPE), (packed, {"content-type": "application/msgpack"})]:
        response = await house.client.post(
            "/v1/search", content=content, headers=headers | {"accept": TYPE["content-type"]}
        )
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (400, "malformed_body")
        assert "key 'k' stands twice in one object" in error["message"]


async def test_a_reply_that_is_too_long_is_refused_before_it_is_made(make_house: Any) -> None:
    house = make_house(max_reply_bytes=2_000)
    query = GOOD | {"fields": ["title"], "k": 100}
    for body in (query, {"queries": [query | {"k": 10}] * 8}):
        response = await ask(house, "POST", "/v1/search", TYPE, body)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (422, "reply_too_large")
        assert "at most 2,000 bytes" in error["message"]
    assert (await ask(house, "POST", "/v1/search", TYPE, query | {"k": 5})).status_code == 200
    packed = {"content-type": "application/msgpack"}
    response = await house.client.post("/v1/search", content=msgpack.packb(query | {"columns": True}), headers=packed)
    assert response.status_code == 422


def test_a_batch_is_bounded_by_leaving_out_its_longest_replies() -> None:
    def reply(*texts: Any) -> SearchReply:
        keys = np.arange(len(texts))
        return SearchReply(
            ids=keys, keys=keys, scores=np.ones(len(texts), np.float32), fields={"t": list(texts)}, version="v"
        )

    outcomes = [reply("x" * 60), reply("x" * 10, None, 3), reply(["x" * 20, "x" * 20])]
    assert list(bounded(outcomes, 110)) == outcomes
    first, *others = bounded(outcomes, 109)
    assert isinstance(first, ReplyTooLarge) and others == outcomes[1:]


async def test_a_shard_that_may_not_send_its_reply_is_not_missed_silently(make_house: Any) -> None:
    house = make_house()
    house.shards[0].does, house.shards[0].error = "refuse", ReplyTooLarge("expected a reply of at most 9 bytes")
    response = await ask(house, "POST", "/v1/search", TYPE, GOOD)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "reply_too_large")


async def test_items_may_be_so_large(make_house: Any) -> None:
    door = Door(make_house(sizes=ItemSizes(max_field_bytes=8, max_tags=2, max_dimension=4)))
    good = {"id": 1, "vector": [1, 2.5], "fields": {"country": "é" * 4}}
    cases = [
        (good, None),
        (
            good | {"id": 2, "fields": {"country": "é" * 4 + "x"}},
            "fields.country: expected at most 8 bytes of text, got 9",
        ),
        (good | {"id": 3, "space": "other", "vector": [1] * 4}, None),
        (good | {"id": 4, "space": "other", "vector": [1] * 5}, "vector: expected at most 4 numbers, got 5"),
    ]
    reply = (await door.post({"upsert": [item for item, _ in cases]})).json()
    assert reply["accepted"] == 2
    assert [(error["code"], error["message"]) for error in reply["errors"]] == [
        ("too_large", message) for _, message in cases if message
    ]
    assert [write.id for write in door.log.writes] == [1, 3]


def test_tags_are_counted_and_measured_together() -> None:
    from silverray.shard.live.checks import WriteError
    from silverray.shard.live.writes import Patch

    sizes = ItemSizes(max_field_bytes=8, max_tags=2)
    sizes.check(Patch(1, {"tags": ["abcd", "efgh"], "year": 10**15, "gone": None}), 2)
    with pytest.raises(WriteError, match=r"fields\.tags: expected at most 2 tags, got 3"):
        sizes.check(Patch(1, {"tags": ["a", "b", "c"]}), 2)
    with pytest.raises(WriteError, match=r"fields\.tags: expected at most 8 bytes of text, got 9"):
        sizes.check(Patch(1, {"tags": ["abcde", "efgh"]}), 2)


class Shards:
    """What says how many items there are."""

    def __init__(self, items: int | None) -> None:
        self.items = items
        self.asked = 0

    async def __call__(self) -> int | None:
        self.asked += 1
        return self.items


async def test_the_schema_counts_the_items_that_there_are(make_house: Any) -> None:
    house = make_house()
    shards = Shards(3)
    app = create_app(house.router, count=ItemCount(shards))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://router") as client:
        for _ in range(3):
            schema = (await client.get("/v1/schema")).json()
            assert (schema["items"], schema["published_items"]) == (3, 400)
        assert shards.asked == 1
    silent = create_app(house.router, count=ItemCount(Shards(None)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(silent), base_url="http://router") as client:
        assert (await client.get("/v1/schema")).json()["items"] is None


async def test_a_catalog_grows_to_a_bound(make_house: Any) -> None:
    shards, log = Shards(10), MemoryLog()
    catalog = Door(make_house()).catalog
    writer = ItemWriter(catalog, log, ["films-shard-0"], ItemCount(shards), max_items=10)
    app = create_app(make_house().router, None, writer)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://router") as client:
        full = await client.post(
            "/v1/items", json={"upsert": [{"id": 1, "vector": [1, 2], "fields": {"country": "US"}}]}
        )
        error = full.json()["error"]
        assert (full.status_code, error["code"]) == (503, "catalog_full")
        assert "there are 10 items, at most 10 may be (log.max_items)" in error["message"]
        fewer = await client.post("/v1/items", json={"delete": [1], "patch": [{"id": 2, "fields": {"year": 3}}]})
        assert (fewer.status_code, fewer.json()["accepted"]) == (200, 2)


async def test_the_manual_needs_nothing_from_elsewhere(make_house: Any) -> None:
    response = await ask(make_house(), "GET", "/docs", {})
    policy, page = response.headers["content-security-policy"], response.text
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "<script" not in page and "://" not in page.replace("https://films.example", "")
    for text in ("POST /v1/search", "GET /v1/schema", "PatchItem", "reply_too_large", "16,777,216 bytes"):
        assert text in page, text


async def test_the_description_promises_what_is_taken(make_house: Any) -> None:
    house = make_house()
    document = (await ask(house, "GET", "/openapi.json", {})).json()
    search = document["paths"]["/v1/search"]["post"]["requestBody"]["content"]["application/json"]
    answer = await ask(house, "POST", "/v1/search", TYPE, search["example"] | {"filter": "1"})
    assert answer.status_code == 200 and "title" in answer.json()["items"][0]["fields"]
    schemas = document["components"]["schemas"]
    one_of = schemas["SearchBody"]["oneOf"]
    assert [entry["required"] for entry in one_of] == [["vector"], ["vectors"]], "no user without an encoder"
    vector = schemas["SearchBody"]["properties"]["vector"]["anyOf"][0]
    assert (vector["minItems"], vector["maxItems"]) == (8, 8)
    assert schemas["SearchBody"]["properties"]["fields"]["items"]["enum"] == ["title"]
    ids = schemas["RankBody"]["properties"]["ids"]
    assert (ids["minItems"], ids["maxItems"], ids["items"]["minimum"]) == (1, 10_000, 0)
    assert [entry["required"] for entry in schemas["ItemsBody"]["anyOf"]] == [["upsert"], ["delete"], ["patch"]]
    assert all(entry["properties"][entry["required"][0]] == {"minItems": 1} for entry in schemas["ItemsBody"]["anyOf"])


@pytest.mark.parametrize(
    ("status", "kind"), [(500, Unavailable), (503, Unavailable), (400, MalformedBody), (404, Unavailable)]
)
async def test_the_client_knows_what_a_proxy_says(status: int, kind: type[Exception]) -> None:
    page = httpx.MockTransport(lambda request: httpx.Response(status, html="<html>Bad request</html>"))
    request = SearchRequest(vectors=np.ones((1, 8), np.float32))
    async with HttpSearcher("http://router", page) as searcher:
        try:
            outcomes: Sequence[Any] = await searcher.search([replace(request)])
        except Exception as error:
            outcomes = [error]
    assert type(outcomes[0]) is kind


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Host", ("localhost", "evil.example")),
        ("Host", ("evil.example", "localhost")),
        ("Origin", ("http://evil.example", "http://localhost")),
        ("Content-Type", ("text/plain", "application/json")),
        ("Content-Type", ("application/json", "application/json")),
        ("Content-Length", ("999999999999", "17")),
        ("Content-Encoding", ("gzip", "identity")),
    ],
)
async def test_a_header_of_one_value_that_stands_twice_is_refused(
    make_house: Any, name: str, values: tuple[str, str]
) -> None:
    house = make_house(callers=LOCAL)
    usual = {"host": "localhost", "content-type": "application/json"}
    usual.pop(name.lower(), None)
    headers = [*usual.items(), *((name, value) for value in values)]
    for method, path in [("POST", "/v1/search"), ("POST", "/v1/rank"), ("POST", "/v1/items"), ("GET", "/v1/status")]:
        response = await house.client.request(method, path, headers=headers, content=orjson.dumps(GOOD))
        error = response.json()["error"]
        assert (response.status_code, error["code"], error["where"]) == (400, "repeated_header", name)
    assert all(not shard.batches for shard in house.shards)


async def test_accept_may_stand_twice(make_house: Any) -> None:
    house = make_house()
    headers = [*TYPE.items(), ("accept", "application/json;q=0.1"), ("accept", "application/msgpack")]
    for method, path, status in [("POST", "/v1/search", 200), ("GET", "/nothing", 404)]:
        response = await house.client.request(method, path, headers=headers, content=orjson.dumps(GOOD))
        assert (response.status_code, response.headers["content-type"]) == (status, "application/msgpack")
