"""Scorers whose numbers leave float32: every searcher and `POST /v1/rank` give one order, and lose no item."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

from silverray.router.batch.fanout import Backend
from silverray.router.http.app import create_app
from silverray.router.http.client import HttpSearcher
from silverray.router.router import Router
from silverray.router.settings import RouterSettings
from silverray.shard.api import EncoderUnavailable, Searcher, SearchReply, SearchRequest
from silverray.shard.model.item_features import ItemFeatures
from silverray.shard.model.scorer_files import make_scorer, save_overarch
from silverray.shard.model.scorers import LARGEST, bounded
from silverray.shard.publish.builder import publish
from silverray.shard.schema.schema import Schema
from silverray.shard.searcher import ExactSearch, ShardSearcher
from silverray.shard.snapshot.catalog import Catalog

ITEMS, D = 60, 4


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def publish_scored(folder: Path, kind: str) -> Catalog:
    """Items of lengths 1 to 1e18 and a scorer whose first layer is too large for the long ones."""
    model = folder / "model"
    model.mkdir()
    (model / "module_info.json").write_text(f'{{"tasks": ["click"], "dimension": {D}}}')
    torch.manual_seed(0)
    features = ItemFeatures.of([]).check(Schema.parse(f"id: id\nvector: {{dimension: {D}, metric: ip}}\nfields: {{}}"))
    scorer = make_scorer(kind, 1, D, features.width, {"hidden": 8})
    with torch.no_grad():
        for weight in scorer.parameters():
            weight.add_(0.3 * torch.randn(weight.shape)).mul_(1e7)
    save_overarch(model, kind, {"hidden": 8}, scorer, features)
    vectors = np.random.default_rng(0).standard_normal((ITEMS, D))
    vectors *= np.logspace(0, 17, ITEMS)[:, None] / np.linalg.norm(vectors, axis=1)[:, None]
    schema = Schema.parse(f"id: id\nvector: {{dimension: {D}, metric: ip}}\nfields: {{}}")
    return publish(
        pa.table({"id": range(ITEMS)}), schema, folder, vectors=vectors.astype(np.float32), model=model, partitions=4
    )


def route(catalog: Catalog, shards: int) -> Router:
    parts = [tuple(range(n, 4, shards)) for n in range(shards)]
    backends = [
        Backend(f"s{n}", ShardSearcher.open(catalog.path, part), catalog.items_in(part), part)
        for n, part in enumerate(parts)
    ]
    return Router(catalog, backends, settings=RouterSettings(deadline_s=50.0))


def scores_of(reply: object) -> tuple[list[int], NDArray[np.float32], NDArray[np.float32]]:
    assert isinstance(reply, SearchReply), reply
    assert reply.tasks is not None
    return reply.keys.tolist(), reply.scores, reply.tasks.predictions


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["mlp", "mixture_of_logits"])
async def test_every_searcher_and_a_ranking_give_one_order(tmp_path: Path, kind: str) -> None:
    catalog = publish_scored(tmp_path, kind)
    query = np.array([[1e17, -3e17, 2e17, 1e16]], np.float32)
    search = SearchRequest(vectors=query, k=ITEMS, refine="all", timeout_s=60.0)
    (truth,) = await ExactSearch.open(catalog.path).search([search])
    keys, scores, predictions = scores_of(truth)
    assert sorted(keys) == list(range(ITEMS))
    assert np.isfinite(scores).all() and np.isfinite(predictions).all()
    assert (np.abs(predictions) == LARGEST).any() and (np.abs(predictions) < LARGEST).any()
    assert [(-score, key) for score, key in zip(scores.tolist(), keys, strict=True)] == sorted(
        (-score, key) for score, key in zip(scores.tolist(), keys, strict=True)
    )
    whole, cut = route(catalog, 1), route(catalog, 3)
    transport = httpx.ASGITransport(create_app(cut))
    given = SearchRequest(vectors=query, keys=np.arange(ITEMS), k=ITEMS, timeout_s=60.0)
    asked: list[tuple[Searcher, SearchRequest]] = [
        (ShardSearcher.open(catalog.path), search),
        (whole, search),
        (cut, search),
        (HttpSearcher("http://test", transport), search),
        (ShardSearcher.open(catalog.path), given),
        (ExactSearch.open(catalog.path), given),
        (cut, given),
    ]
    for searcher, request in asked:
        (reply,) = await searcher.search([request])
        found = scores_of(reply)
        assert found[0] == keys
        np.testing.assert_array_equal(found[1], scores)
        np.testing.assert_array_equal(found[2], predictions)
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        body = {"vector": query[0].tolist(), "deadline_ms": 60_000}
        ranked = (await client.post("/v1/rank", json=body | {"ids": list(range(ITEMS))})).json()
        listed = (await client.post("/v1/search", json=body | {"k": ITEMS})).json()
    for items in (ranked["items"], listed["items"]):
        assert [item["id"] for item in items] == keys
        assert [item["score"] for item in items] == scores.tolist()
        assert None not in [item["tasks"]["click"] for item in items]


@pytest.mark.anyio
async def test_a_scorer_of_whole_lists_loses_no_item_either(tmp_path: Path) -> None:
    catalog = publish_scored(tmp_path, "self_attention")
    query = np.array([[1e17, -3e17, 2e17, 1e16]], np.float32)
    search = SearchRequest(vectors=query, k=ITEMS, refine="all", timeout_s=60.0)
    (truth,) = await ExactSearch.open(catalog.path).search([search])
    keys, scores, predictions = scores_of(truth)
    assert sorted(keys) == list(range(ITEMS))
    assert np.isfinite(scores).all() and np.isfinite(predictions).all()
    for searcher in (ShardSearcher.open(catalog.path), route(catalog, 1), route(catalog, 3)):
        (reply,) = await searcher.search([search])
        assert scores_of(reply)[0] == keys


def test_what_is_no_number_is_last() -> None:
    given = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0])
    assert bounded(given).tolist() == [-LARGEST, LARGEST, -LARGEST, 1.0]


class FarTower:
    """An encoder whose vectors are too long."""

    async def encode(self, users: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        return np.full((len(users), 1, D), 1e18, dtype=np.float32)


@pytest.mark.anyio
async def test_a_user_whose_vector_is_too_long_cannot_be_encoded(tmp_path: Path) -> None:
    catalog = publish_scored(tmp_path, "mlp")
    router = Router(catalog, [Backend("s", ShardSearcher.open(catalog.path), ITEMS)], FarTower())
    (error,) = await router.search([SearchRequest(user={"age": 3}, timeout_s=60.0)])
    assert isinstance(error, EncoderUnavailable) and "unusable" in error.message
