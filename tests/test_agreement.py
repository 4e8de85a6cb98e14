"""Every searcher is held to the same answers: brute force, shards, routers (nested too) and the HTTP client."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace

import httpx
import numpy as np
import pytest
from catalogs import make_requests

from silverray.router.batch.fanout import Backend
from silverray.router.http.app import create_app
from silverray.router.http.client import HttpSearcher
from silverray.router.router import Router
from silverray.router.settings import DiversitySettings, RouterSettings
from silverray.shard.api import InvalidRequest, Searcher, SearchReply, SearchRequest
from silverray.shard.index import planner
from silverray.shard.searcher import ExactSearch, ShardSearcher
from silverray.shard.snapshot.catalog import Catalog

Make = Callable[[Catalog], Searcher]
EPSILON = 1e-6
SETTINGS = RouterSettings(
    deadline_s=50.0, diversity=DiversitySettings(window=8, spacing={"country": 0.3, "artist": 0.6})
)


def shard(catalog: Catalog) -> Searcher:
    return ShardSearcher.open(catalog.path)


def backends(catalog: Catalog, partitions: Sequence[int], count: int) -> list[Backend]:
    parts = [tuple(partitions[start::count]) for start in range(count)]
    return [Backend(f"s{n}", ShardSearcher.open(catalog.path, p), catalog.items_in(p)) for n, p in enumerate(parts)]


def routed(count: int) -> Make:
    def make(catalog: Catalog) -> Router:
        return Router(catalog, backends(catalog, range(catalog.partitions), count), settings=SETTINGS)

    return make


def nested(catalog: Catalog) -> Searcher:
    halves = [range(0, 3), range(3, 8)]
    inner = [Router(catalog, backends(catalog, half, 2), settings=RouterSettings(deadline_s=50.0)) for half in halves]
    return Router(
        catalog,
        [
            Backend(f"half {n}", router, catalog.items_in(tuple(half)))
            for n, (router, half) in enumerate(zip(inner, halves, strict=True))
        ],
        settings=SETTINGS,
    )


def over_http(catalog: Catalog) -> Searcher:
    app = create_app(routed(4)(catalog))  # type: ignore[arg-type]
    return HttpSearcher("http://test", httpx.ASGITransport(app=app))


MAKERS: dict[str, Make] = {
    "shard": shard,
    "router of 1": routed(1),
    "router of 2": routed(2),
    "router of 4": routed(4),
    "router of 8": routed(8),
    "router of routers": nested,
    "http": over_http,
}


def ask(make: Make, catalog: Catalog, requests: Sequence[SearchRequest], seed: int = 0) -> list[SearchReply]:
    """Ask in batches of 1 to 64 requests."""

    async def run() -> list[SearchReply]:
        searcher, rng, replies, start = make(catalog), np.random.default_rng(seed), [], 0
        while start < len(requests):
            size = int(rng.integers(1, 65))
            for reply in await searcher.search(requests[start : start + size]):
                assert isinstance(reply, SearchReply), reply
                replies.append(reply)
            start += size
        return replies

    return asyncio.run(run())


def assert_same(reply: SearchReply, truth: SearchReply) -> None:
    """The same answer: ids differ only where scores are within epsilon of each other."""
    np.testing.assert_allclose(reply.scores, truth.scores, rtol=EPSILON, atol=EPSILON)
    differ = np.flatnonzero(reply.keys != truth.keys)
    if truth.tasks is not None:
        assert reply.tasks is not None and reply.tasks.names == truth.tasks.names
        same = reply.keys == truth.keys
        for mine, its in zip(reply.tasks[1:], truth.tasks[1:], strict=True):
            np.testing.assert_allclose(mine[same], its[same], rtol=EPSILON, atol=EPSILON)
    for place in differ:
        near = np.abs(truth.scores - reply.scores[place]) <= EPSILON * max(1, abs(reply.scores[place]))
        assert near.sum() > 1, f"place {place}: {reply.keys[place]} is not {truth.keys[place]}"


@pytest.fixture(scope="module", params=["one task", "two tasks"])
def served(request: pytest.FixtureRequest) -> Catalog:
    """A catalog of which, with two tasks, every item that is visited is a candidate."""
    found: Catalog = request.getfixturevalue("catalog" if request.param == "one task" else "two_tasks")
    return found


@pytest.fixture(scope="module")
def requests(served: Catalog) -> list[SearchRequest]:
    """Requests with mixed filters, k and a fixed number of probes."""
    count, tasks = (500, 1) if len(served.tasks) == 1 else (100, 2)
    asked = make_requests(count, seed=20, ks=(1, 10, 100, 1_000, 10_000), tasks=tasks, timeout_s=60.0)
    return [replace(request, n_probe=20, refine="all") for request in asked]


@pytest.fixture(scope="module")
def truth(served: Catalog, requests: list[SearchRequest]) -> list[SearchReply]:
    return ask(shard, served, requests, seed=1)


@pytest.mark.parametrize("name", list(MAKERS))
def test_many_requests_get_the_same_answers_from_every_searcher(
    served: Catalog, requests: list[SearchRequest], truth: list[SearchReply], name: str
) -> None:
    for reply, true in zip(ask(MAKERS[name], served, requests), truth, strict=True):
        assert_same(reply, true)
        assert reply.coverage.items_fraction == 1
        assert not reply.coverage.degraded


Asked = tuple[list[SearchRequest], list[SearchReply]]


@pytest.fixture(scope="module")
def refined(served: Catalog) -> Asked:
    """Requests that visit every cluster, and what brute force answers."""
    requests = make_requests(
        64 // len(served.tasks), seed=21, ks=(1, 50, 5_000), tasks=len(served.tasks), n_probe=64, refine="all",
        fields=("title",),
    )  # fmt: skip
    return requests, ask(lambda c: ExactSearch.open(c.path), served, requests)


@pytest.mark.parametrize("name", list(MAKERS))
def test_all_clusters_refined_is_brute_force(served: Catalog, refined: Asked, name: str) -> None:
    requests, truth = refined
    for reply, true in zip(ask(MAKERS[name], served, requests), truth, strict=True):
        assert_same(reply, true)
        assert list(reply.fields) == ["title"]
        assert reply.fields["title"] == [f"title {key} é" for key in reply.ids]


def exactly_routed(catalog: Catalog) -> Searcher:
    whole = Backend("whole", ExactSearch.open(catalog.path), catalog.items)
    return Router(catalog, [whole], settings=SETTINGS)


STRENGTHS = (0.0, 0.5, 8.0)


@pytest.fixture(scope="module")
def varied(catalog: Catalog) -> Asked:
    """Requests, each with every strength of diversity, and what a router over brute force answers."""
    requests = make_requests(48, seed=23, ks=(1, 10, 60), n_probe=64, refine="all", timeout_s=60.0)
    varied = [replace(request, diversify=strength) for request in requests for strength in STRENGTHS]
    return varied, ask(exactly_routed, catalog, varied)


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "shard"])
def test_diversified_answers_are_those_of_brute_force_on_any_number_of_shards(
    catalog: Catalog, varied: Asked, name: str
) -> None:
    requests, truth = varied
    for reply, true in zip(ask(MAKERS[name], catalog, requests), truth, strict=True):
        np.testing.assert_array_equal(reply.keys, true.keys)
        np.testing.assert_array_equal(reply.scores, true.scores)


def test_diversity_moves_most_answers_and_none_without_strength(catalog: Catalog, varied: Asked) -> None:
    requests, truth = varied
    plain = ask(shard, catalog, [replace(request, diversify=None) for request in requests[:: len(STRENGTHS)]])
    moved = 0
    for place, by_score in enumerate(plain):
        np.testing.assert_array_equal(truth[3 * place].keys, by_score.keys)
        moved += set(truth[3 * place + 2].keys.tolist()) != set(by_score.keys.tolist())
    assert moved > len(plain) // 2


def test_a_shard_alone_does_not_diversify_in_silence(catalog: Catalog) -> None:
    (request,) = make_requests(1, seed=24, diversify=0.5)
    (error,) = asyncio.run(shard(catalog).search([request]))
    assert isinstance(error, InvalidRequest) and error.where == "diversify"


def test_recall_with_default_settings_is_no_lower_on_more_shards(
    publish_items: Callable[..., Catalog], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = publish_items(20_000, seed=3, clusters=128)
    monkeypatch.setattr(planner, "SURVIVORS", 200)
    requests = make_requests(300, seed=22, ks=(10, 100), timeout_s=60.0)
    true = ask(lambda c: ExactSearch.open(c.path), made, requests)

    def recall(shards: int) -> float:
        replies = ask(routed(shards), made, requests)
        shares = [
            (reply.scores >= best.scores[-1] - 1e-5).sum() / len(best.scores)
            for reply, best in zip(replies, true, strict=True)
            if len(best.scores)
        ]
        return float(np.mean(shares))

    whole, cut = recall(1), recall(4)
    assert whole >= 0.95
    assert cut >= whole
