from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from silverray.router.errors import Unavailable
from silverray.router.http.app import create_app
from silverray.router.http.client import HttpSearcher, SearchClient
from silverray.shard.api import (
    CoverageTooLow,
    DeadlineExceeded,
    FilterError,
    InvalidRequest,
    Overloaded,
    SearchError,
    SearchReply,
    SearchRequest,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("virtual_time")]

Vector = NDArray[np.float32]


def over(house: Any) -> HttpSearcher:
    return HttpSearcher("http://router", httpx.ASGITransport(create_app(house.router)))


def answering(status: int, **content: Any) -> httpx.MockTransport:
    return httpx.MockTransport(lambda request: httpx.Response(status, **content))


async def test_it_gives_what_the_router_gives(make_house: Any, query: Vector) -> None:
    house = make_house()
    requests = [
        SearchRequest(vectors=query[np.newaxis], k=k, fields=("title",), explain=True, timeout_s=t)
        for k, t in [(1, None), (20, 2.0), (1_000, 10.0)] * 100
    ]
    direct = await house.router.search(requests)
    async with over(house) as searcher:
        remote = await searcher.search(requests)
        assert await searcher.search([]) == []
    assert len(remote) == 300
    for here, there in zip(direct, remote, strict=True):
        assert isinstance(here, SearchReply) and isinstance(there, SearchReply)
        for name in ("ids", "keys", "scores"):
            np.testing.assert_array_equal(getattr(here, name), getattr(there, name))
            assert getattr(here, name).dtype == getattr(there, name).dtype
        for name in ("fields", "version", "seq", "coverage", "explain"):
            assert getattr(here, name) == getattr(there, name)


async def test_text_ids_have_the_keys_of_their_texts(make_house: Any, query: Vector) -> None:
    from silverray.shard.schema.keys import hash_text

    house = make_house()
    for shard in house.shards:
        shard.text_ids = True
    async with over(house) as searcher:
        (reply,) = await searcher.search([SearchRequest(vectors=query[np.newaxis], k=3)])
    assert isinstance(reply, SearchReply)
    assert reply.ids == [f"item {key}" for key in house.best(query, 3).keys]
    assert reply.keys.tolist() == [hash_text(str(text)) for text in reply.ids]


async def test_a_wrong_request_raises_as_the_server_did(make_house: Any, query: Vector) -> None:
    good = SearchRequest(vectors=query[np.newaxis])
    house = make_house()
    async with over(house) as searcher:
        with pytest.raises(FilterError) as caught:
            await searcher.search([good, SearchRequest(vectors=query[np.newaxis], filter="year >")])
        error = caught.value
        assert (error.where, error.position, error.expected) == ("queries[1].filter", 3, ("a number",))
        assert error.hint == "write digits"
        with pytest.raises(InvalidRequest) as refused:
            await searcher.search([good] * 258 + [SearchRequest(vectors=query[np.newaxis, :5])])
        assert refused.value.where == "queries[258].vectors"
        assert isinstance((await searcher.search([good]))[0], SearchReply)


async def test_an_error_of_one_request(make_house: Any, query: Vector) -> None:
    house = make_house()
    house.shards[0].does = "raise"
    requests = [SearchRequest(vectors=query[np.newaxis], min_coverage=m) for m in (0.0, 0.9)]
    async with over(house) as searcher:
        good, bad = await searcher.search(requests)
        assert isinstance(good, SearchReply) and good.coverage.degraded
        assert isinstance(bad, CoverageTooLow) and bad.where == "queries[1].min_coverage"
        (alone,) = await searcher.search(requests[1:])
        assert isinstance(alone, CoverageTooLow)


async def test_what_other_servers_and_networks_do(query: Vector) -> None:
    request = SearchRequest(vectors=query[np.newaxis])

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    def stall(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("slow")

    overloaded = {"error": {"code": "overloaded", "message": "full", "where": None}}
    novel = {"error": {"code": "novel", "message": "new", "where": None}}
    cases: list[tuple[httpx.MockTransport, type[SearchError]]] = [
        (httpx.MockTransport(refuse), Unavailable),
        (httpx.MockTransport(stall), DeadlineExceeded),
        (answering(503, json=overloaded), Overloaded),
        (answering(500, json=novel), SearchError),
        (answering(404, text="no route"), Unavailable),
        (answering(502, html="<p>bad gateway</p>"), Unavailable),
        (answering(200, text="hello"), SearchError),
        (answering(200, headers={"content-type": "application/json"}, content=b"{"), SearchError),
    ]
    for transport, kind in cases:
        async with HttpSearcher("http://router", transport) as searcher:
            try:
                (outcome,) = await searcher.search([request])
            except SearchError as error:
                outcome = error
            assert type(outcome) is kind


def test_the_blocking_client() -> None:
    found = {"items": [{"id": 3, "score": 1.0}]}
    with_result = SearchClient("http://router", answering(200, json=found))
    assert with_result.search({"vector": [1.0]}) == found
    error = {"error": {"code": "invalid_request", "message": "expected 8", "where": "vector"}}
    refusing = SearchClient("http://router", answering(422, json=error))
    with pytest.raises(InvalidRequest, match="vector: expected 8"):
        refusing.search({"vector": [1.0]})
    with pytest.raises(InvalidRequest):
        refusing.get("/v1/status")


@pytest.mark.parametrize("said", [{}, {"items": 3}, {"status": "ok"}, {"error": "none"}])
def test_another_server_that_speaks_json_is_no_router(said: dict[str, Any]) -> None:
    client = SearchClient("http://router", answering(200, json=said))
    with pytest.raises(SearchError, match="HTTP status 200 and no answer that a router gives"):
        client.search({"vector": [1.0]})
    with pytest.raises(SearchError, match="no answer that a router gives"):
        client.get("/v1/status", "backends", "requests")


@pytest.mark.parametrize(("deadline_ms", "waits_s"), [(2_000, 7.0), (None, 65.0), (0, 65.0), ("soon", 65.0)])
def test_the_blocking_client_waits_for_the_deadline_of_its_body(deadline_ms: object, waits_s: float) -> None:
    waited: list[float] = []

    def note(request: httpx.Request) -> httpx.Response:
        waited.append(request.extensions["timeout"]["read"])
        return httpx.Response(200, json={"items": []})

    SearchClient("http://router", httpx.MockTransport(note)).search({"deadline_ms": deadline_ms})
    assert waited == [waits_s]


@pytest.mark.parametrize("value", [2**70, object(), "\ud800", {1, 2}])
async def test_what_cannot_be_sent_is_one_line(value: Any, query: Vector) -> None:
    request = SearchRequest(vectors=query[np.newaxis], context={"x": value})
    async with HttpSearcher("http://router", answering(200, json={})) as searcher:
        with pytest.raises(InvalidRequest, match="body: expected values that can be sent, got one that cannot: "):
            await searcher.search([request])
    if value != 2**70:  # which JSON has
        with pytest.raises(InvalidRequest, match="body: expected values that can be sent, got one that cannot: "):
            SearchClient("http://router", answering(200, json={})).search({"context": {"x": value}})


@pytest.mark.parametrize(
    "url", [5, None, b"http://films", "", "films", "127.0.0.1:8000", "ftp://films", "http://", "http://[::1"]
)
def test_what_is_no_address_is_named(url: Any) -> None:
    for kind in (HttpSearcher, SearchClient):
        with pytest.raises(InvalidRequest, match=r"^url: expected an address such as http://127\.0\.0\.1:8000, got "):
            kind(url)


def test_reports_are_not_waited_for_as_searches_are() -> None:
    waited: list[float] = []

    def note(request: httpx.Request) -> httpx.Response:
        waited.append(request.extensions["timeout"]["read"])
        return httpx.Response(200, json={"status": "ok"})

    SearchClient("http://router", httpx.MockTransport(note)).get("/v1/status")
    assert waited == [5.0]
