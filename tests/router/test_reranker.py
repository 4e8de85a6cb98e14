"""Re-ranked answers through routers: the same on any cut of the catalog, with quotas and diversification, and edges."""

import asyncio
import pickle
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from catalogs import make_requests, write_set_wise
from numpy.typing import NDArray
from queries import featured, make_batch

from silverray.router.batch.fanout import Backend
from silverray.router.errors import Unavailable
from silverray.router.http.app import create_app
from silverray.router.http.client import HttpSearcher
from silverray.router.router import Router
from silverray.router.settings import DiversitySettings, RerankSettings, RouterSettings
from silverray.router.stages.rerank import Reranker
from silverray.shard.api import InvalidRequest, Searcher, SearchReply, SearchRequest
from silverray.shard.engine.rerank import SetRanker
from silverray.shard.engine.validation import Validator
from silverray.shard.limits import filled
from silverray.shard.model.diversity import Diversity
from silverray.shard.model.scorer_files import load_overarch
from silverray.shard.query import Query, QueryBatch
from silverray.shard.result_batch import FeaturedReply, ResultBatch
from silverray.shard.searcher import ExactSearch, ShardSearcher
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.snapshot.files import SnapshotFiles
from silverray.shard.value.settings import ValueSettings
from silverray.shard.value.valuer import Valuer

pytestmark = pytest.mark.anyio

CLOSE = 1e-5
WINDOW = 60
VALUE = ValueSettings.model_validate(
    {
        "default": "click + 2 * like",
        "variants": {"jazz": "if(tags any ('jazz') and year >= context.from, 2, 1) * click + 0.1"},
        "context": {"from": {"type": "int"}},
    }
)
SETTINGS = RouterSettings(deadline_s=50.0, rerank=RerankSettings(window=WINDOW))
QUOTAS = {"click": 2, "like": 4}
SPACING = DiversitySettings(window=6, oversample=4, spacing={"country": 0.5})


class Travelling:
    """A shard in another process: queries and results are pickled in columns."""

    def __init__(self, shard: ShardSearcher) -> None:
        self.shard = shard
        self.asked: list[Query] = []

    async def answer(self, batch: QueryBatch) -> ResultBatch:
        batch = pickle.loads(pickle.dumps(batch))
        self.asked += batch
        results: ResultBatch = pickle.loads(pickle.dumps(await self.shard.answer(batch)))
        return results


def backends(catalog: Catalog, partitions: Sequence[int], count: int) -> list[Backend]:
    parts = [tuple(partitions[start::count]) for start in range(count)]
    shards = [Travelling(ShardSearcher.open(catalog.path, part, value=VALUE)) for part in parts]
    return [
        Backend(f"s{n}", shard, catalog.items_in(part), part)
        for n, (shard, part) in enumerate(zip(shards, parts, strict=True))
    ]


def validator(catalog: Catalog) -> Validator:
    return Validator(catalog, Valuer(VALUE, catalog.tasks, catalog.schema))


def route(catalog: Catalog, shards: int, settings: RouterSettings = SETTINGS, encoder: Any = None) -> Router:
    parts = backends(catalog, range(catalog.partitions), shards)
    return Router(catalog, parts, encoder, settings=settings, validator=validator(catalog))


def nest(catalog: Catalog, settings: RouterSettings = SETTINGS) -> Router:
    halves = [range(0, 3), range(3, 8)]
    inner = [
        Router(catalog, backends(catalog, half, 2), settings=settings, validator=validator(catalog)) for half in halves
    ]
    outer = [
        Backend(f"half {n}", router, catalog.items_in(tuple(half)))
        for n, (router, half) in enumerate(zip(inner, halves, strict=True))
    ]
    return Router(catalog, outer, settings=settings, validator=validator(catalog))


def over_http(catalog: Catalog) -> HttpSearcher:
    return HttpSearcher("http://test", httpx.ASGITransport(app=create_app(route(catalog, 3))))


MAKERS: dict[str, Any] = {
    "router of 1": lambda catalog: route(catalog, 1),
    "router of 2": lambda catalog: route(catalog, 2),
    "router of 4": lambda catalog: route(catalog, 4),
    "router of routers": nest,
    "http": over_http,
}


def reranker_of(router: Router) -> Reranker:
    (reranker,) = (stage for stage in router._stages if isinstance(stage, Reranker))
    return reranker


async def ask(searcher: Searcher, requests: Sequence[SearchRequest]) -> list[SearchReply]:
    replies = await searcher.search(requests)
    for reply in replies:
        assert isinstance(reply, SearchReply), reply
    return replies  # type: ignore[return-value]


def every(count: int, seed: int, **options: Any) -> list[SearchRequest]:
    """Requests of which every matching item is a candidate."""
    return make_requests(count, seed, tasks=2, **{"refine": "all", "n_probe": 64, "timeout_s": 50.0, **options})


def assert_same(reply: SearchReply, truth: SearchReply) -> None:
    np.testing.assert_allclose(reply.scores, truth.scores, rtol=CLOSE, atol=CLOSE)
    assert reply.keys.tolist() == truth.keys.tolist()
    assert reply.tasks is not None and truth.tasks is not None and reply.tasks.names == truth.tasks.names
    for mine, its in zip(reply.tasks[1:], truth.tasks[1:], strict=True):
        np.testing.assert_allclose(mine, its, rtol=CLOSE, atol=CLOSE)


def exact(catalog: Catalog) -> ExactSearch:
    return ExactSearch.open(catalog.path, value=VALUE, window=WINDOW)


@pytest.mark.parametrize("name", list(MAKERS))
async def test_answers_are_those_of_brute_force_on_any_number_of_shards(set_wise: Catalog, name: str) -> None:
    requests = every(24, 1, ks=(1, 10, 100), context={"from": 1980}, fields=("title",))
    requests = [replace(request, variant=(None, "jazz")[row % 2]) for row, request in enumerate(requests)]
    truth = await ask(exact(set_wise), requests)
    for request, reply, true in zip(requests, await ask(MAKERS[name](set_wise), requests), truth, strict=True):
        assert_same(reply, true)
        assert len(reply.keys) <= request.k and type(reply) is SearchReply
        assert reply.fields["title"] == [f"title {key} é" for key in reply.keys]
        assert reply.coverage.items_fraction == 1


async def test_shards_are_asked_for_a_window_and_the_list_is_cut(set_wise: Catalog) -> None:
    router = route(set_wise, 2)
    requests = every(3, 2, explain=True)
    asked = [replace(request, k=k, filter=None) for request, k in zip(requests, (1, 10, 200), strict=True)]
    replies = await ask(router, asked)
    told = {(r.k, r.features) for lane in router._fanout._lanes for r in lane.backend.shard.asked}  # type: ignore[attr-defined]
    assert told == {(WINDOW, ()), (200, ())}
    for request, reply in zip(asked, replies, strict=True):
        assert reply.explain is not None and reply.explain["short"] is False
        (stage,) = reply.explain["stages"]
        assert stage.pop("ms") >= 0
        assert stage == {"stage": "rerank", "in": max(WINDOW, request.k), "out": request.k}
        assert [s["stage"] for s in reply.explain["shards"]["s0"]["stages"]][-1] == "select"
    await router.close()


@pytest.mark.parametrize("name", ["router of 1", "router of 4", "router of routers"])
async def test_quotas_and_diversification_take_the_new_predictions(set_wise: Catalog, name: str) -> None:
    settings = RouterSettings(deadline_s=50.0, rerank=RerankSettings(window=WINDOW), quotas=QUOTAS, diversity=SPACING)
    router = nest(set_wise, settings) if name == "router of routers" else route(set_wise, int(name[-1]), settings)
    requests = [replace(request, filter=None) for request in every(6, 3, ks=(5, 20))]
    requests = [replace(request, diversify=(None, 3.0)[row % 2]) for row, request in enumerate(requests)]
    overarch = load_overarch(SnapshotFiles.open(set_wise.path), set_wise.schema)
    ranker = SetRanker(overarch.scorer, set_wise.tasks, Valuer(VALUE, set_wise.tasks, set_wise.schema), WINDOW)
    changed = 0
    for request, reply in zip(requests, await ask(router, requests), strict=True):
        k = request.k if request.diversify is None else 4 * request.k
        orders: dict[str, Any] = {"k": max(WINDOW, k), "features": ("country",), "quotas": (2, 4)}
        plain = replace(request, diversify=None)
        (found,) = await featured(exact(set_wise), [plain], **orders)
        (wide,) = make_batch(validator(set_wise), [plain], **orders)
        (ranked,) = ranker.rerank([wide], [filled(found, wide.k, (2, 4))])
        assert isinstance(ranked, FeaturedReply)
        chosen = filled(ranked, k, (2, 4))
        changed += chosen.keys.tolist() != ranked.keys[:k].tolist()
        if request.diversify is not None:
            order = Diversity(6, (0.5,))(
                torch.tensor(chosen.scores)[None],
                torch.tensor(chosen.features.vectors)[None],
                torch.ones(1, k, dtype=torch.bool),
                torch.tensor([request.diversify]),
                request.k,
                torch.tensor(chosen.features.codes)[None],
            )[0]
            chosen = chosen.take(order.numpy())
        assert_same(reply, chosen)
        assert type(reply) is SearchReply
        assert reply.tasks is not None
        if request.diversify is None and request.k == 20:
            best = np.argsort(-ranked.tasks.predictions[:, 1])[:4]  # type: ignore[union-attr]
            assert set(ranked.keys[best].tolist()) <= set(reply.keys.tolist())
    assert changed >= 2


async def test_a_degraded_answer_is_ranked_from_what_came(set_wise: Catalog) -> None:
    router = route(set_wise, 2)
    lost, left = (lane.backend.shard for lane in router._fanout._lanes)

    async def fail(batch: Any) -> Any:
        raise RuntimeError("lost")

    lost.answer = fail  # type: ignore[method-assign]
    requests = every(3, 4, ks=(10,))
    half = ExactSearch.open(set_wise.path, range(1, 8, 2), value=VALUE, window=WINDOW)
    for reply, true in zip(await ask(router, requests), await ask(half, requests), strict=True):
        assert_same(reply, true)
        assert reply.coverage.degraded
    left.answer = fail  # type: ignore[method-assign]
    (error,) = await router.search(requests[:1])
    assert isinstance(error, Unavailable)
    await router.close()


async def test_shards_that_tell_no_features_are_an_error(set_wise: Catalog) -> None:
    router = route(set_wise, 1)
    (lane,) = router._fanout._lanes
    honest = lane.backend.shard.answer

    async def tell_less(batch: QueryBatch) -> ResultBatch:
        return replace(await honest(batch), features=None)

    lane.backend.shard.answer = tell_less  # type: ignore[method-assign]
    (error,) = await router.search(every(1, 5))
    assert isinstance(error, Unavailable) and "told no features" in error.message
    await router.close()


class Tower:
    """Turns a user's number into the vectors of a seeded request."""

    async def encode(self, users: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        return np.stack([every(1, user["seed"])[0].vectors for user in users])  # type: ignore[misc]


async def test_users_are_ranked_for_by_their_encoded_vectors(set_wise: Catalog) -> None:
    router = route(set_wise, 2, encoder=Tower())
    (request,) = every(1, 6, ks=(20,))
    users, vectors = await ask(router, [replace(request, vectors=None, user={"seed": 6}), request])
    assert_same(users, vectors)
    await router.close()


@pytest.fixture
async def client(set_wise: Catalog, anyio_backend: str) -> AsyncIterator[httpx.AsyncClient]:
    router = route(set_wise, 3)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(create_app(router)), base_url="http://router") as client:
        yield client
    await router.close()


async def test_given_items_are_the_list(set_wise: Catalog, client: httpx.AsyncClient) -> None:
    (request,) = every(1, 7)
    keys = np.sort((await ask(exact(set_wise), [replace(request, filter=None, k=500)]))[0].keys)
    for some in (keys, keys[:100], keys[:1]):
        (true,) = await ask(exact(set_wise), [replace(request, keys=some, k=len(some))])
        body = {"vectors": request.vectors.tolist(), "ids": [*some.tolist(), 10**12], "explain": True}  # type: ignore[union-attr]
        reply = (await client.post("/v1/rank", json=body)).json()
        assert [item["id"] for item in reply["items"]] == true.keys.tolist()
        np.testing.assert_allclose([i["score"] for i in reply["items"]], true.scores, rtol=CLOSE, atol=CLOSE)
        assert true.tasks is not None and reply["unknown"] == [10**12]
        told = [list(item["tasks"].values()) for item in reply["items"]]
        np.testing.assert_allclose(told, true.tasks.predictions, rtol=CLOSE, atol=CLOSE)
        (stage,) = reply["explain"]["stages"]
        assert (stage["stage"], stage["in"]) == ("rerank", len(some))


@pytest.mark.parametrize(
    ("path", "given", "where"),
    [
        ("/v1/rank", {"ids": list(range(1_001))}, "ids"),
        ("/v1/search", {"k": 1_001}, "k"),
        ("/v1/search", {"k": 1_001, "diversify": {}}, "k"),
    ],
)
async def test_longer_lists_are_refused(
    client: httpx.AsyncClient, path: str, given: dict[str, Any], where: str
) -> None:
    vectors = every(1, 8)[0].vectors
    assert vectors is not None
    response = await client.post(path, json={"vectors": vectors.tolist(), **given})
    assert response.status_code == 422
    error = response.json()["error"]
    assert error["where"] == where and "got 1001" in error["message"]


async def test_nothing_and_one_item(set_wise: Catalog) -> None:
    router = route(set_wise, 4)
    base = every(1, 9, explain=True)[0]
    for filter_, count in (('country = "Nowhere"', 0), ("rank = 7", 1)):
        plain, varied = await ask(router, [replace(base, filter=filter_), replace(base, filter=filter_, diversify=2.0)])
        for reply in (plain, varied):
            assert len(reply.keys) == count and reply.explain is not None and reply.explain["short"] is (count < base.k)
            assert reply.explain["stages"][0]["in"] == count
    await router.close()


async def test_the_event_loop_goes_on_while_lists_are_ranked(
    set_wise: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = route(set_wise, 1)
    turns, started = 0, []

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    reranker = reranker_of(router)
    original = reranker._ranker.rerank

    def rerank(*lists: Any) -> Any:
        started.append(turns)
        return original(*lists)

    monkeypatch.setattr(reranker._ranker, "rerank", rerank)
    task = asyncio.create_task(turn())
    await ask(router, every(8, 10))
    task.cancel()
    assert started and turns > started[0]
    await router.close()


async def test_long_lists_of_one_body_let_others_have_their_turn(set_wise: Catalog) -> None:
    router = route(set_wise, 1)
    (request,) = every(1, 12, ks=(1_000,))
    large = asyncio.create_task(ask(router, [replace(request, filter=None)] * 50))
    reranker = reranker_of(router)
    while not reranker._executor._threads:
        await asyncio.sleep(0.001)
    (small,) = await ask(router, [replace(request, filter=None, k=10)])
    assert len(small.keys) == 10 and not large.done()
    first, *others = await large
    assert len(others) == 49 and all(reply.keys.tolist() == first.keys.tolist() for reply in others)
    await router.close()


async def test_one_task_and_ids_that_are_texts(publish_items: Callable[..., Catalog], tmp_path: Path) -> None:
    made = publish_items(300, strings=True, model=write_set_wise(tmp_path / "model", ("click",)))
    shards = [Backend(f"s{n}", ShardSearcher.open(made.path, range(n, 8, 2)), 150) for n in range(2)]
    inner = Router(made, shards, settings=SETTINGS)
    nested = Router(made, [Backend("inner", inner, made.items)], settings=SETTINGS)
    requests = make_requests(6, 13, ks=(3, 90), n_probe=64, refine="all", timeout_s=50.0)
    truth = await ask(ExactSearch.open(made.path, window=WINDOW), requests)
    for router in (inner, nested):
        for reply, true in zip(await ask(router, requests), truth, strict=True):
            assert_same(reply, true)
            assert reply.ids == true.ids
        await router.close()


async def test_a_batch_is_another_routers_which_re_ranks(set_wise: Catalog) -> None:
    router = route(set_wise, 2)
    requests = every(1, 11, ks=(30,))
    (found,) = await featured(exact(set_wise), requests)
    (reply,) = (await router.answer(make_batch(validator(set_wise), requests, features=()))).rows()
    assert isinstance(reply, FeaturedReply)
    assert reply.keys.tolist() == found.keys.tolist()
    assert reply.features.features.shape == found.features.features.shape
    await router.close()


async def test_a_model_without_such_a_scorer_is_not_re_ranked(two_tasks: Catalog) -> None:
    assert not any(isinstance(stage, Reranker) for stage in route(two_tasks, 1)._stages)


async def test_a_reranker_ends_its_thread(set_wise: Catalog) -> None:
    reranker = Reranker(SETTINGS.rerank, set_wise, validator(set_wise).valuer)
    reranker.close()
    with pytest.raises(RuntimeError):
        reranker._executor.submit(int)


async def test_diversification_is_still_checked(set_wise: Catalog) -> None:
    router = route(set_wise, 1)
    (error,) = await router.search([replace(every(1, 12)[0], diversify=-1.0)])
    assert isinstance(error, InvalidRequest) and error.where == "diversify.strength"
    await router.close()
