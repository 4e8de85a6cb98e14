"""Numbers at the ends of float32: refused with their place, or compared in their true order; never lost in silence."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from silverray.router.batch.fanout import Backend
from silverray.router.http.app import create_app
from silverray.router.router import Router
from silverray.shard.api import InvalidRequest, SearchReply, SearchRequest, SnapshotError
from silverray.shard.live.changes import Changes
from silverray.shard.live.checks import WriteError, check
from silverray.shard.live.fold import fold
from silverray.shard.live.writes import Upsert
from silverray.shard.local import LocalSearcher
from silverray.shard.publish.builder import publish
from silverray.shard.schema import vectors as lengths
from silverray.shard.schema.schema import Schema
from silverray.shard.searcher import ExactSearch, ShardSearcher
from silverray.shard.snapshot.catalog import Catalog

Floats = NDArray[np.float32]
TOO_LONG = r"expected a length of at most 1e\+18 with metric ip, got "


def schema(metric: str = "ip", dimension: int = 4) -> Schema:
    return Schema.parse(f"id: id\nvector: {{dimension: {dimension}, metric: {metric}}}\nfields: {{}}")


def publish_vectors(out: Path, vectors: Floats, metric: str = "ip", **options: Any) -> Catalog:
    table = pa.table({"id": range(len(vectors))})
    return publish(table, schema(metric, vectors.shape[1]), out, vectors=vectors, partitions=4, **options)


def directions(n: int, dimension: int = 4, seed: int = 0) -> Floats:
    vectors = np.random.default_rng(seed).standard_normal((n, dimension))
    unit: Floats = (vectors / np.linalg.norm(vectors, axis=1)[:, None]).astype(np.float32)
    return unit


@pytest.fixture
def plain(tmp_path: Path) -> Catalog:
    return publish_vectors(tmp_path, directions(6), version="plain")


@pytest.mark.parametrize("row", [0, 599])
def test_an_item_too_long_for_inner_products_is_refused_with_its_row(tmp_path: Path, row: int) -> None:
    vectors = directions(600)
    vectors[row] *= np.float32(2e18)
    with pytest.raises(ValueError, match=f"^vectors, row {row}: {TOO_LONG}2"):
        publish_vectors(tmp_path, vectors)
    with pytest.raises(ValueError, match=f"^vectors, row {row}: {TOO_LONG}2"):
        publish(pa.table({"id": range(600), "vector": vectors.tolist()}), schema(), tmp_path)
    publish_vectors(tmp_path, vectors, "cosine")


def test_a_double_beyond_float32_is_refused_when_it_is_published(tmp_path: Path) -> None:
    table = pa.table({"id": range(2), "vector": [[1.0] * 4, [1.0, 1e39, 0.0, 0.0]]})
    with pytest.raises(ValueError, match=r"^vectors, row 1: holds NaN or infinity, or a number beyond float32$"):
        publish(table, schema(), tmp_path)


@pytest.mark.parametrize("n_probe", [None, 32])
def test_the_longest_vectors_are_found_in_their_true_order(tmp_path: Path, n_probe: int | None) -> None:
    vectors = directions(3_000) * np.float32(0.9999e18)
    made = publish_vectors(tmp_path, vectors, clusters=64)
    queries = directions(20, seed=1) * np.float32(0.9999e18)
    true = queries.astype(np.float64) @ vectors.astype(np.float64).T
    found = LocalSearcher.open(made.path).search_batch(queries, k=10, n_probe=n_probe)
    assert np.isfinite(found.scores).all()
    best = np.sort(true, axis=1)[:, -10:]
    held = np.take_along_axis(true, found.ids, axis=1) >= best[:, :1]
    assert held.mean() >= 0.95
    rank = SearchRequest(vectors=queries[:1], keys=np.arange(3_000), k=3_000)
    for searcher in (ShardSearcher.open(made.path), ExactSearch.open(made.path)):
        (reply,) = asyncio.run(searcher.search([rank]))
        assert isinstance(reply, SearchReply)
        np.testing.assert_allclose(reply.scores, np.sort(true[0])[::-1], rtol=1e-5, atol=1e30)


@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_a_query_too_long_is_refused_by_every_searcher(tmp_path: Path, metric: str) -> None:
    made = publish_vectors(tmp_path, directions(6), metric)
    query = np.full((1, 4), 3e38, np.float32)
    shard, local = ShardSearcher.open(made.path), LocalSearcher.open(made.path)
    router = Router(made, [Backend("s", shard, 6)])

    async def outcomes() -> tuple[Any, ...]:
        request = SearchRequest(vectors=query, timeout_s=60.0)
        transport = httpx.ASGITransport(create_app(router))
        async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
            body = {"vector": query[0].tolist(), "deadline_ms": 60_000}
            posts = [
                await client.post("/v1/search", json=body),
                await client.post("/v1/rank", json=body | {"ids": [0]}),
            ]
        return *(await shard.search([request])), *(await router.search([request])), *posts

    one, other, *posts = asyncio.run(outcomes())
    if metric == "cosine":
        assert len(one.keys) == len(other.keys) == local.search_batch(query).counts[0] == 6
        assert [post.status_code for post in posts] == [200, 200]
        return
    assert isinstance(one, InvalidRequest) and one.where == "vector"
    assert isinstance(other, InvalidRequest) and other.where == "vector"
    with pytest.raises(InvalidRequest, match=rf"^queries\[0\].vector: {TOO_LONG}6e\+38$"):
        local.search_batch(query)
    for post in posts:
        assert post.status_code == 422
        assert post.json()["error"]["where"] == "vector"
        assert "at most 1e+18" in post.json()["error"]["message"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_doubles_beyond_float32_are_refused_without_a_warning(tmp_path: Path, metric: str) -> None:
    made = publish_vectors(tmp_path, directions(6), metric)
    double = np.array([[1.0, 0, 0, 0], [1e39, 0, 0, 0]])
    beyond = "holds NaN, infinity or a number beyond float32"
    with pytest.raises(InvalidRequest, match=rf"^queries\[1\].vector: {beyond}$"):
        LocalSearcher.open(made.path).search_batch(double)
    (error,) = asyncio.run(ShardSearcher.open(made.path).search([SearchRequest(vectors=double[1:])]))
    assert isinstance(error, InvalidRequest) and str(error) == f"vector: {beyond}"
    upsert = Upsert(1, double[1], {})
    (refused,) = check([upsert], made)
    assert isinstance(refused, WriteError) and str(refused) == f"vector: {beyond}"
    with pytest.raises(ValueError, match=f"vector: {beyond}"):
        Changes.of({1: upsert}, made)


@pytest.mark.parametrize("scale", [1e-44, 1e-40, 1.0, 1e30, 3e38])
def test_cosine_takes_any_length(tmp_path: Path, scale: float) -> None:
    items = np.array([[1, 1, 0, 0], [1, -1, 0, 0], [-1, -1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]], np.float32)
    made = publish_vectors(tmp_path, items * np.float32(scale), "cosine")
    found = LocalSearcher.open(made.path).search_batch(items[:1] * np.float32(scale), k=5)
    assert found.ids.tolist() == [[0, 4, 1, 3, 2]]
    np.testing.assert_allclose(found.scores, [[1, 0.5**0.5, 0, 0, -1]], atol=1e-6)


@pytest.mark.parametrize("cache", ["fp32", "bf16"])
def test_an_old_snapshot_with_longer_vectors_is_refused_by_name(
    tmp_path: Path, cache: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = np.full((1, 4), 0.4999e18, np.float32)  # of which bfloat16 makes more
    LocalSearcher.open(publish_vectors(tmp_path, longest, cache=cache, version="good").path)
    with monkeypatch.context() as earlier:
        earlier.setattr(lengths, "MAX_LENGTH", 1e30)
        made = publish_vectors(tmp_path, longest * np.float32(100), cache=cache, version="old")
    with pytest.raises(SnapshotError, match=rf"old/.*items.*: vectors, row 0: {TOO_LONG}"):
        LocalSearcher.open(made.path)


def test_logged_vectors_that_are_too_long_are_left_out(plain: Catalog) -> None:
    longest = directions(1)[0] * np.float32(1e19)
    (refused,) = check([Upsert(7, longest, {})], plain)
    assert isinstance(refused, WriteError) and refused.code == "invalid_vector"
    write = Upsert(7, longest, {}, plain.vector_space)
    with pytest.raises(ValueError, match=f"vector: {TOO_LONG}1e"):
        Changes.of({7: write}, plain)
    folded = fold(pa.table({"id": range(6)}), schema(), directions(6), [write], plain.vector_space)
    assert folded.outcome.refused == 1 and len(folded.vectors) == 6
    assert folded.refusal is not None and "at most 1e+18" in folded.refusal


Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


def mixture(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    centres = np.random.default_rng(9).standard_normal((300, 2))
    weights = 1 / np.arange(1, 301)
    return centres[rng.choice(300, n, p=weights / weights.sum())] + 0.3 * rng.standard_normal((n, 2))


def test_two_dimensions_with_cosine_are_planned_by_the_scores_that_serve(tmp_path: Path) -> None:
    """Int8 cannot tell 256 centroids on a circle apart: planned by float scores, half of the best are missed."""
    rng = np.random.default_rng(5)
    items = mixture(rng, 30_000).astype(np.float32)
    searcher = LocalSearcher.open(publish_vectors(tmp_path, items, "cosine").path)
    units = items / np.linalg.norm(items.astype(np.float64), axis=1)[:, None]
    for queries in (mixture(rng, 100), rng.standard_normal((100, 2)), items[:100].astype(np.float64)):
        true = queries @ units.T
        for k in (10, 100):
            found = searcher.search_batch(queries, k=k)
            worst = np.partition(true, -k, axis=1)[:, -k, None]
            held = np.take_along_axis(true, found.ids, axis=1) >= worst - 1e-6 * np.abs(worst)
            assert held.mean() >= 0.95
