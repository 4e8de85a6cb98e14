"""Bodies before the router: who enters when, who is refused, and what a refusal does not do."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import orjson
import pytest

from silverray.router.batch import gate as gate_module
from silverray.router.batch.gate import Gate, Visit
from silverray.router.batch.pulse import Pulse
from silverray.router.http import endpoint
from silverray.router.settings import RouterSettings
from silverray.shard.api import Overloaded

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("virtual_time")]

JSON = {"content-type": "application/json"}
GOOD = {"vector": [1, 0, 0, 2.5, 0, -1, 0, 0]}


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def gate(clock: Clock, **given: Any) -> Gate:
    settings: dict[str, Any] = {"deadline_s": 2.5, "max_pending": 64, "slots": 1, "max_batch": 4} | given
    return Gate(RouterSettings(**settings), clock)


async def turns(n: int) -> None:
    for _ in range(n):
        await asyncio.sleep(0)


async def test_few_bodies_enter_in_a_turn_of_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_module, "A_TURN", 2)
    one = gate(Clock())
    tasks = [asyncio.create_task(one.enter()) for _ in range(8)]
    await turns(1)
    seen = []
    for _ in range(6):
        seen.append(one.inside)
        await turns(1)
    assert seen == [0, 2, 4, 6, 8, 8]
    assert all(isinstance(task.result(), Visit) for task in tasks)


async def test_the_newest_enters_first_when_the_oldest_has_waited() -> None:
    clock = Clock()
    one = gate(clock)
    one.occupy(8)
    entered: list[str] = []

    async def visit(name: str) -> None:
        with await one.enter() as place:
            entered.append(name)
            place.answered()

    tasks = []
    for name in ("first", "second", "third"):
        tasks.append(asyncio.create_task(visit(name)))
        await turns(2)
        clock.now += 0.2
    assert entered == []
    one.free(8)
    await asyncio.gather(*tasks)
    assert entered == ["third", "second", "first"]
    assert one.inside == 0


async def test_a_full_house_refuses_before_anything() -> None:
    one = gate(Clock(), max_pending=8)
    one.occupy(8)
    with pytest.raises(Overloaded, match="8 of 8"):
        one.check()
    one.free(1)
    one.check()
    assert one.to_document()["refused"] == 1


async def test_who_has_waited_too_long_is_given_up() -> None:
    clock = Clock()
    one = gate(clock)
    one.occupy(8)
    old = asyncio.create_task(one.enter())
    await turns(2)
    clock.now += 0.99
    new = asyncio.create_task(one.enter())
    await turns(2)
    clock.now += 0.05
    one._give_up()
    with pytest.raises(Overloaded, match="waited too long"):
        await old
    one.free(8)
    assert isinstance(await new, Visit)
    assert one.to_document() == {"limit": 8, "inside": 1, "waiting": 0, "refused": 0, "given_up": 1}


async def test_who_leaves_while_waiting_takes_no_place() -> None:
    one = gate(Clock())
    one.occupy(8)
    gone = asyncio.create_task(one.enter())
    await turns(2)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    one.free(8)
    await turns(3)
    assert (one.inside, one.to_document()["waiting"]) == (0, 0)
    # Let in and gone in the same turn.
    late = asyncio.create_task(one.enter())
    await turns(2)
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)
    assert one.inside == 0


async def test_slow_answers_let_fewer_in() -> None:
    clock = Clock()
    one = gate(clock, max_batch=64, max_pending=1_024)
    began = clock.now
    clock.now += 1.1
    one.learn(began)
    assert one.to_document()["limit"] == 115  # nine tenths of two batches


async def refuse(house: Any) -> tuple[int, dict[str, Any], int]:
    """Ask by headers alone; the status, the error, and how often the body was asked for."""
    asked = 0
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        nonlocal asked
        asked += 1
        return {"type": "http.request", "body": b"", "more_body": True}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", b"10000")]
    whole = {"type": "http", "method": "POST", "path": "/v1/search", "headers": headers}
    await house.client._transport.app(whole, receive, send)
    assert dict(sent[0]["headers"])[b"retry-after"] == b"1"
    return sent[0]["status"], orjson.loads(sent[1]["body"])["error"], asked


async def test_a_refused_body_is_neither_read_nor_decoded(make_house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    house = make_house(max_pending=4)
    house.router.gate.occupy(4)
    monkeypatch.setattr(endpoint, "parse_search", lambda *_: pytest.fail("it was decoded"))
    status, error, asked = await refuse(house)
    assert (status, error["code"], asked) == (503, "overloaded", 0)
    assert house.router.to_document()["errors"] == {"overloaded": 1}


async def test_too_many_bytes_are_refused_by_the_header(make_house: Any) -> None:
    house = make_house(max_waiting_bytes=10_000)
    for shard in house.shards:
        shard.does = "hang"
    first = asyncio.create_task(
        house.client.post("/v1/search", content=orjson.dumps(GOOD | {"deadline_ms": 500}), headers=JSON)
    )
    while not house.shards[0].batches:
        await asyncio.sleep(0.005)
    status, error, asked = await refuse(house)
    assert (status, error["code"], asked) == (503, "overloaded", 0)
    assert "bytes of other requests are waiting" in error["message"]
    await first
    long = orjson.dumps(GOOD) + b" " * 20_000
    for shard in house.shards:
        shard.does = "well"
    assert (await house.client.post("/v1/search", content=long, headers=JSON)).status_code == 200, "alone it is taken"


async def test_half_sent_bodies_take_nobodys_place(make_house: Any) -> None:
    house = make_house(max_pending=4, body_timeout_s=0.3)
    never = asyncio.Event()

    async def half() -> Any:
        yield b'{"vector"'
        await never.wait()

    halves = [asyncio.create_task(house.client.post("/v1/search", content=half(), headers=JSON)) for _ in range(40)]
    await asyncio.sleep(0.05)
    whole = await house.client.post("/v1/search", content=orjson.dumps(GOOD), headers=JSON)
    assert whole.status_code == 200
    for response in await asyncio.gather(*halves):
        assert (response.status_code, response.json()["error"]["code"]) == (408, "body_timeout")
        assert response.headers["connection"] == "close"
        assert "within 0.3 s, got 9 bytes" in response.json()["error"]["message"]


async def test_what_came_too_late_is_not_checked(make_house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    house = make_house(deadline_s=0.2)
    checked = []
    real = house.router.validate

    async def validate(*given: Any) -> Any:
        checked.append(given)
        return await real(*given)

    monkeypatch.setattr(house.router, "validate", validate)
    monkeypatch.setattr(Pulse, "arrived", lambda self: self._clock() - 0.3)  # 0.3 s in the loop's backlog
    response = await house.client.post("/v1/search", content=orjson.dumps(GOOD), headers=JSON)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert not checked
    patient = orjson.dumps(GOOD | {"deadline_ms": 5_000})
    assert (await house.client.post("/v1/search", content=patient, headers=JSON)).status_code == 200


def test_what_may_be_waited_for_follows_the_deadlines_that_clients_ask_for() -> None:
    clock = Clock()
    one = gate(clock, deadline_s=0.1, max_batch=64, max_pending=1_000)
    visit = Visit(one, clock.now)
    for _ in range(40):
        visit.decoded(10.0)
    limit = one.to_document()["limit"]
    clock.now += 3.0  # far beyond the default deadline, and soon for these clients
    visit.answered()
    assert one.to_document()["limit"] == limit
    clock.now += 3.0
    visit.answered()
    assert one.to_document()["limit"] < limit
