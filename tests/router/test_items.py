"""Writing items over HTTP: what is accepted, what is refused and where, and what happens without a log."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import date
from types import SimpleNamespace
from typing import Any

import httpx
import msgpack
import numpy as np
import orjson
import pytest

from silverray.router.errors import LogUnavailable, Unavailable, WritesDisabled
from silverray.router.http.app import create_app
from silverray.router.http.client import HttpSearcher, SearchClient
from silverray.router.writes.item_writer import ItemWriter, WriteReply
from silverray.router.writes.items_call import ItemError
from silverray.router.writes.log import LogPage, LogRecord, Reader
from silverray.shard.api import InvalidRequest, SearchError
from silverray.shard.live.writes import Delete, Patch, Upsert, Write, decode
from silverray.shard.schema.schema import Schema

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("virtual_time")]

SCHEMA = """
id: film
vector: {dimension: 2, metric: ip}
fields: {country: {type: category}, year: {type: int, nullable: true}, day: {type: date, nullable: true},
         price: {type: float, nullable: true}}
"""
JSON = {"content-type": "application/json"}
MESSAGE_PACK = {"content-type": "application/msgpack"}
GOOD = {"id": 1, "vector": [1, 2.5], "fields": {"country": "US"}}


class MemoryLog:
    """A log in memory; `error` is what its next appends raise."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self.error: SearchError | None = None
        self.reached = asyncio.Event()
        self.shards: list[str] = []

    async def append(self, body: bytes, size: int, timeout_s: float) -> int:
        if self.error:
            raise self.error
        seq = (self.records[-1].seq if self.records else 0) + size
        self.records.append(LogRecord(seq, size, body))
        return seq

    async def read(self, after: int, limit: int, timeout_s: float, reader: Reader | None = None) -> LogPage:
        raise NotImplementedError

    async def applied(self, seq: int, shards: Sequence[str], timeout_s: float) -> bool:
        self.shards = list(shards)
        try:
            await asyncio.wait_for(self.reached.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    async def trim(self, keep_from: int) -> None:
        raise NotImplementedError

    async def describe(self) -> dict[str, Any]:
        raise NotImplementedError

    @property
    def writes(self) -> list[Write]:
        return [write for record in self.records for write in decode(record.body)]


class Door:
    """An application over a log, and how to write to it."""

    def __init__(self, house: Any) -> None:
        catalog: Any = SimpleNamespace(
            schema=Schema.parse(SCHEMA), dimension=2, metric="ip", id_type="int", vector_space="v1"
        )
        self.catalog = catalog
        self.log = MemoryLog()
        app = create_app(house.router, None, ItemWriter(catalog, self.log, ["films-shard-0", "films-shard-1"]))
        self.transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=self.transport, base_url="http://router")

    async def post(self, body: Any) -> httpx.Response:
        return await self.client.post("/v1/items", content=orjson.dumps(body), headers=JSON)


@pytest.fixture
async def door(make_house: Callable[..., Any]) -> AsyncIterator[Door]:
    one = Door(make_house(max_body_bytes=1 << 20, max_deadline_s=10.0))
    yield one
    await one.client.aclose()


def plain(write: Write) -> Any:
    vector = (write.vector.tolist(),) if isinstance(write, Upsert) else ()
    return type(write).__name__, write.id, None if isinstance(write, Delete) else write.fields, *vector


async def test_items_of_all_kinds(door: Door) -> None:
    body = {
        "upsert": [GOOD, {"id": 2, "vector": [0, 1], "fields": {"country": "FR", "day": "2001-05-31"}}],
        "delete": [3],
        "patch": [{"id": 4, "fields": {"year": None}}],
    }
    response = await door.post(body)
    assert response.status_code == 200
    assert response.json() == {"seq": 4, "accepted": 4, "errors": []}
    assert [plain(write) for write in door.log.writes] == [
        ("Upsert", 1, {"country": "US"}, [1.0, 2.5]),
        ("Upsert", 2, {"country": "FR", "day": date(2001, 5, 31)}, [0.0, 1.0]),
        ("Delete", 3, None),
        ("Patch", 4, {"year": None}),
    ]
    assert all(write.space == "v1" for write in door.log.writes if isinstance(write, Upsert))
    assert (await door.post({"delete": [9]})).json()["seq"] == 5
    assert [record.size for record in door.log.records] == [4, 1]
    status = (await door.client.get("/v1/status")).json()
    assert status["writes"] == {"bodies": 2, "accepted": 5, "refused": 0, "failed": 0}
    assert (await door.client.get("/v1/schema")).json()["writes"] is True


async def test_a_write_may_name_another_vector_space(door: Door) -> None:
    here, there = {"space": "v1", "vector": [1, 2]}, {"space": "v2", "vector": [1, 2, 3], "id": 2}
    assert (await door.post({"upsert": [GOOD | here, GOOD | there]})).json()["errors"] == []
    spaces = [(write.space, write.vector.tolist()) for write in door.log.writes if isinstance(write, Upsert)]
    assert spaces == [("v1", [1, 2]), ("v2", [1, 2, 3])]


async def test_message_pack(door: Door) -> None:
    vector = np.array([1, 2.5], dtype="<f4").tobytes()
    content = msgpack.packb({"upsert": [GOOD | {"vector": vector}], "delete": [2**63 - 1]})
    response = await door.client.post("/v1/items", content=content, headers=MESSAGE_PACK)
    assert msgpack.unpackb(response.content) == {"seq": 2, "accepted": 2, "errors": []}
    assert list(map(plain, door.log.writes)) == [
        ("Upsert", 1, {"country": "US"}, [1.0, 2.5]),
        ("Delete", 2**63 - 1, None),
    ]


WRONG_ITEMS: list[tuple[str, Any, Any, str, str]] = [
    ("upsert", 5, None, "invalid_item", "expected an object with id, vector, got integer"),
    ("upsert", {"id": 50, "fields": {}}, 50, "invalid_item", "vector: is missing"),
    ("upsert", {"vector": [1, 2]}, None, "invalid_item", "id: is missing"),
    ("upsert", GOOD | {"id": 51, "x": 1}, 51, "invalid_item", "unknown key 'x'; known are id, vector, fields, space"),
    ("upsert", GOOD | {"id": 52, "vector": [1, "2"]}, 52, "invalid_vector", "got string at place 1"),
    ("upsert", GOOD | {"id": 53, "vector": [1]}, 53, "invalid_vector", "vector: expected [2] numbers, got [1]"),
    ("upsert", GOOD | {"id": 54, "vector": [1, 1e39]}, 54, "invalid_vector", "a number beyond float32"),
    ("upsert", GOOD | {"id": 55, "fields": []}, 55, "invalid_item", "fields: expected an object, got array"),
    ("upsert", GOOD | {"id": 56, "space": ""}, 56, "invalid_item", "space: expected a name or null, got ''"),
    ("upsert", GOOD | {"id": 57, "space": 3}, 57, "invalid_item", "space: expected a name or null, got 3"),
    ("upsert", GOOD | {"id": 58, "fields": {}}, 58, "missing_field", "fields.country: expected a value"),
    ("upsert", GOOD | {"id": "x" * 300}, "x" * 100, "invalid_id", "id: expected an integer from 0"),
    ("upsert", GOOD | {"id": None}, None, "invalid_id", "got null"),
    ("delete", -1, -1, "invalid_id", "got integer -1"),
    ("delete", {"id": 1}, None, "invalid_id", "got object"),
    ("patch", {"id": 59}, 59, "invalid_item", "fields: is missing"),
    ("patch", {"id": 60, "fields": {"year": 1.5}}, 60, "invalid_value", "fields.year: expected an integer"),
    ("patch", {"id": 61, "fields": {"country": None}}, 61, "missing_field", "the field is not nullable"),
]


@pytest.mark.parametrize("whole", [2**53 + 1, 2**64 + 1, -(2**63) - 1, 2**90 - 1])
async def test_an_integer_that_float64_has_not_is_refused_however_long_it_is(door: Door, whole: int) -> None:
    for good in (2**53, 2**64, -(2**63), 0.1, 1e300):
        content = json.dumps({"patch": [{"id": 1, "fields": {"price": good}}]}).encode()
        assert (await door.client.post("/v1/items", content=content, headers=JSON)).json()["errors"] == []
        (write,) = decode(door.log.records[-1].body)
        assert plain(write)[2] == {"price": float(good)}
    content = json.dumps({"patch": [{"id": 1, "fields": {"price": whole}}]}).encode()
    (error,) = (await door.client.post("/v1/items", content=content, headers=JSON)).json()["errors"]
    assert (error["code"], error["message"]) == (
        "invalid_value",
        f"fields.price: expected a number, got integer {whole}",
    )


async def test_an_id_beyond_64_bits_is_an_error_of_its_item(door: Door) -> None:
    content = json.dumps({"patch": [{"id": 2**70, "fields": {"year": 1}}], "delete": [2**70]}).encode()
    for headers in (JSON, JSON | {"accept": MESSAGE_PACK["content-type"]}):
        response = await door.client.post("/v1/items", content=content, headers=headers)
        decoded = response.json() if headers is JSON else msgpack.unpackb(response.content)
        assert [(error["code"], error["id"]) for error in decoded["errors"]] == [("invalid_id", None)] * 2


async def test_a_name_nested_as_deep_as_a_body_may_be_is_an_error_of_its_item(door: Door) -> None:
    nested = "[" * 1_000 + "]" * 1_000
    body = f'{{"upsert": [{{"id": 1, "vector": [1, 2], "space": {nested}}}]}}'
    response = await door.client.post("/v1/items", content=body.encode(), headers=JSON)
    assert response.status_code == 200
    (error,) = response.json()["errors"]
    assert (error["id"], error["message"]) == (1, "space: expected a name or null, got array")


async def test_wrong_items_do_not_spoil_the_good_ones(door: Door) -> None:
    body: dict[str, list[Any]] = {"upsert": [GOOD], "delete": [2], "patch": [{"id": 3, "fields": {"year": 1}}]}
    for op, entry, *_ in WRONG_ITEMS:
        body[op].append(entry)
    body["upsert"].append(GOOD | {"id": 4})
    reply = (await door.post(body)).json()
    assert (reply["seq"], reply["accepted"]) == (4, 4)
    assert [write.id for write in door.log.writes] == [1, 4, 2, 3]
    places = {"upsert": 0, "delete": 0, "patch": 0}
    assert len(reply["errors"]) == len(WRONG_ITEMS)
    for error, (op, _, id_, code, message) in zip(reply["errors"], WRONG_ITEMS, strict=True):
        places[op] += 1
        assert (error["op"], error["index"], error["id"], error["code"]) == (op, places[op], id_, code)
        assert message in error["message"]
    only = (await door.post({"delete": ["x"], "wait": True})).json()
    assert (only["seq"], only["accepted"], only["applied"]) == (0, 0, True)
    assert (await door.client.get("/v1/status")).json()["writes"]["refused"] == len(WRONG_ITEMS) + 1


WRONG_BODIES: list[tuple[Any, int, str | None, str]] = [
    ([], 422, None, "expected an object, got array"),
    ({}, 422, None, "expected 1 to 10000 items in upsert, delete and patch together, got 0"),
    ({"delete": list(range(10_001))}, 422, None, "got 10001"),
    ({"delete": 3}, 422, "delete", "expected an array, got 3"),
    ({"upserts": [GOOD]}, 422, "upserts", "did you mean 'upsert'?"),
    ({"delete": [1], "wait": 1}, 422, "wait", "valid boolean"),
    ({"delete": [1], "deadline_ms": 0}, 422, "deadline_ms", "greater than 0"),
    ({"delete": [1], "deadline_ms": 10_001}, 422, "deadline_ms", "expected at most 10000, got 10001"),
    ({"upsert": [GOOD, GOOD]}, 422, "upsert[1]", "id 1 stands in upsert[0] already"),
    ({"upsert": [GOOD], "delete": [7, 1]}, 422, "delete[1]", "id 1 stands in upsert[0] already"),
    ({"delete": ["a"], "patch": [{"id": "a"}]}, 422, "patch[0]", "id 'a' stands in delete[0] already"),
    ({"delete": ["x" * (1 << 20)]}, 413, None, "expected at most 1048576 bytes"),
]


@pytest.mark.parametrize(("body", "status", "where", "message"), WRONG_BODIES)
async def test_wrong_bodies_write_nothing(door: Door, body: Any, status: int, where: str | None, message: str) -> None:
    response = await door.post(body)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["where"] == where and message in error["message"]
    assert not door.log.records


async def test_ten_thousand_items(door: Door) -> None:
    response = await door.post({"upsert": [GOOD | {"id": n} for n in range(10_000)]})
    assert response.json() == {"seq": 10_000, "accepted": 10_000, "errors": []}
    assert [write.id for write in door.log.writes] == list(range(10_000))


async def test_waiting_until_shards_have_applied(door: Door) -> None:
    late = (await door.post({"delete": [1], "wait": True, "deadline_ms": 50})).json()
    assert late == {"seq": 1, "accepted": 1, "errors": [], "applied": False}
    waiting = asyncio.create_task(door.post({"delete": [2], "wait": True}))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    door.log.reached.set()
    assert (await waiting).json() == {"seq": 2, "accepted": 1, "errors": [], "applied": True}
    assert door.log.shards == ["films-shard-0", "films-shard-1"]


async def test_a_log_that_cannot_be_written_is_a_503_and_searches_go_on(door: Door) -> None:
    door.log.error = LogUnavailable("updates.db: database or disk is full")
    response = await door.post({"delete": [1, 2]})
    assert response.status_code == 503 and response.headers["retry-after"] == "1"
    content = {"code": "log_unavailable", "message": "updates.db: database or disk is full", "where": None}
    assert response.json() == {"error": content}
    body = orjson.dumps({"vector": [1.0] * 8, "k": 3})
    assert (await door.client.post("/v1/search", content=body, headers=JSON)).status_code == 200
    assert (await door.client.get("/v1/status")).json()["writes"]["failed"] == 2
    door.log.error = None
    assert (await door.post({"delete": [1, 2]})).json()["seq"] == 2


async def test_too_many_bytes_at_a_time_are_refused(make_house: Callable[..., Any]) -> None:
    door = Door(make_house(max_waiting_bytes=50))
    waiting = asyncio.create_task(door.post({"delete": [1], "wait": True}))
    while not door.log.records:
        await asyncio.sleep(0.01)
    refused = await door.post({"delete": [2], "deadline_ms": 1_000})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert "bytes of other requests are waiting already" in refused.json()["error"]["message"]
    body = orjson.dumps({"vector": [1.0] * 8, "k": 3})
    assert (await door.client.post("/v1/search", content=body, headers=JSON)).status_code == 200
    door.log.reached.set()
    assert (await waiting).status_code == 200
    assert (await door.post({"delete": list(range(30))})).status_code == 200, "alone a body of any length is taken"
    await door.client.aclose()


async def test_half_sent_bodies_refuse_nobodys_writes(make_house: Callable[..., Any]) -> None:
    door = Door(make_house(body_timeout_s=0.3))
    never = asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield b"{"
        await never.wait()

    halves = [asyncio.create_task(door.client.post("/v1/items", content=half(), headers=JSON)) for _ in range(40)]
    await asyncio.sleep(0.05)
    assert (await door.post({"delete": [1]})).json()["accepted"] == 1
    for response in await asyncio.gather(*halves):
        assert (response.status_code, response.json()["error"]["code"]) == (408, "body_timeout")
    await door.client.aclose()


async def test_fifty_writers_at_once_are_all_taken(door: Door) -> None:
    bodies = [{"upsert": [GOOD | {"id": 100 * n + i} for i in range(100)]} for n in range(50)]
    responses = await asyncio.gather(*(door.post(body) for body in bodies))
    assert {response.status_code for response in responses} == {200}
    assert sum(response.json()["accepted"] for response in responses) == 5_000


async def test_without_a_log_a_body_is_not_read(make_house: Callable[..., Any]) -> None:
    asked = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal asked
        asked = True
        yield b"{}"

    response = await make_house().client.post("/v1/items", content=body(), headers=JSON)
    assert response.status_code == 403 and not asked


async def test_without_a_log_writes_are_refused(make_house: Callable[..., Any]) -> None:
    house = make_house()
    response = await house.client.post("/v1/items", content=orjson.dumps({"delete": [1]}), headers=JSON)
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "writes_disabled"
    async with HttpSearcher("http://router", httpx.ASGITransport(create_app(house.router))) as client:
        with pytest.raises(WritesDisabled, match="its configuration names no log"):
            await client.write([Delete(1)])


async def test_the_client_writes(door: Door) -> None:
    async with HttpSearcher("http://router", door.transport) as client:
        upsert = Upsert(1, np.array([1, 2.5], np.float32), {"country": "US", "day": date(2001, 5, 31)})
        reply = await client.write([Patch(4, {"year": None}), Delete(3), upsert, Delete(-5)])
        message = "id: expected an integer from 0 to 2^63 - 1, got integer -5"
        assert reply == WriteReply(3, 3, [ItemError("delete", 1, -5, "invalid_id", message)])
        assert list(map(plain, door.log.writes)) == [
            ("Upsert", 1, {"country": "US", "day": date(2001, 5, 31)}, [1.0, 2.5]),
            ("Delete", 3, None),
            ("Patch", 4, {"year": None}),
        ]
        assert (await client.write([Delete(5)], wait=True, timeout_s=0.05)).applied is False
        with pytest.raises(InvalidRequest, match=r"delete\[1\]: id 5 stands in delete\[0\] already"):
            await client.write([Delete(5), Delete(5)])
        door.log.error = LogUnavailable("broken")
        with pytest.raises(LogUnavailable, match="broken"):
            await client.write([Delete(5)])


def test_the_blocking_client_writes() -> None:
    reply = {"seq": 1, "accepted": 1, "errors": []}
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=reply)

    client = SearchClient("http://router", httpx.MockTransport(answer))
    assert client.write({"delete": [1]}) == reply
    assert (seen[0].url.path, orjson.loads(seen[0].content)) == ("/v1/items", {"delete": [1]})
    with pytest.raises(Unavailable):
        SearchClient("http://router", httpx.MockTransport(lambda request: httpx.Response(502))).write({})


async def test_the_description_names_the_bodies(door: Door) -> None:
    document = (await door.client.get("/openapi.json")).json()
    write = document["paths"]["/v1/items"]["post"]
    reference = write["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    schemas = document["components"]["schemas"]
    body = schemas[reference.rpartition("/")[2]]["properties"]
    assert body["upsert"]["items"] == {"$ref": "#/components/schemas/UpsertItem"}
    assert schemas["UpsertItem"]["required"] == ["id", "vector"]
    assert schemas["PatchItem"]["required"] == ["id", "fields"]
    assert set(write["responses"]) == {"200", "400", "403", "408", "413", "415", "422", "500", "503"}
