"""Snapshots whose item cache is in bf16: half the room, scores of rounded vectors, and the same answers everywhere."""

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from catalogs import DIMENSION, make_items, make_requests
from processes import PATIENCE_S

from silverray.kernels.rows import row_bytes
from silverray.router.batch.merge import merge
from silverray.shard.api import Coverage, SearchReply, SearchRequest
from silverray.shard.engine.engine import Engine
from silverray.shard.live.writes import Delete, Entry, Upsert
from silverray.shard.result_batch import ResultBatch
from silverray.shard.searcher import ExactSearch, ShardSearcher
from silverray.shard.snapshot.catalog import Catalog

N = 2_000


@pytest.fixture(scope="module")
def half(publish_items: Callable[..., Catalog]) -> Catalog:
    return publish_items(N, clusters=32, cache="bf16")


def ask(searcher: ShardSearcher, requests: Sequence[SearchRequest]) -> list[SearchReply]:
    replies = asyncio.run(searcher.search(requests))
    assert all(isinstance(reply, SearchReply) for reply in replies), replies
    return replies  # type: ignore[return-value]


def assert_same(reply: SearchReply, truth: SearchReply) -> None:
    np.testing.assert_array_equal(reply.keys, truth.keys)
    np.testing.assert_array_equal(reply.scores, truth.scores)


def test_vectors_take_half_the_room(half: Catalog) -> None:
    assert half.cache == "bf16" and half.cache_type == torch.bfloat16
    engine = Engine.open(half.path)
    assert engine.model.lists.vectors.dtype == torch.bfloat16
    assert engine.memory.host["vectors"] == N * row_bytes(DIMENSION, torch.bfloat16)
    assert engine.memory.host["vectors"] == engine.model.lists.vectors.untyped_storage().nbytes()


def test_scores_are_those_of_the_rounded_vectors(half: Catalog) -> None:
    table, vectors = make_items(N)
    rows = torch.from_numpy(vectors).to(torch.bfloat16).double().numpy()
    rounded = dict(zip(table["id"].to_pylist(), rows, strict=True))
    for request, reply in zip(
        requests := make_requests(20, seed=5, refine="all", n_probe=32),
        ask(ShardSearcher.open(half.path), requests),
        strict=True,
    ):
        assert request.vectors is not None
        true = [rounded[key] @ request.vectors[0].astype(np.float64) for key in reply.keys.tolist()]
        np.testing.assert_allclose(reply.scores, true, rtol=1e-5, atol=1e-5)


def test_answers_are_brute_force_on_any_number_of_shards(half: Catalog) -> None:
    requests = make_requests(40, seed=6, refine="all", n_probe=32)
    truth = ask(ExactSearch.open(half.path), requests)
    for shards in (1, 2, 4):
        searchers = [ShardSearcher.open(half.path, range(n, 8, shards)) for n in range(shards)]
        parts = [ResultBatch.of(ask(searcher, requests), half.version) for searcher in searchers]
        merged = merge(parts, [request.k for request in requests], [Coverage()] * len(requests))
        for true, reply in zip(truth, merged.rows(), strict=True):
            assert isinstance(reply, SearchReply)
            assert_same(reply, true)


def test_live_items_are_rounded_alike(half: Catalog) -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((60, DIMENSION)).astype(np.float32)
    table, _ = make_items(N)
    fields = table.drop_columns(["id"]).slice(0, 60).to_pylist()
    writes: list[Upsert | Delete] = [Upsert(4 * N + n, vectors[n], fields[n]) for n in range(60)]
    writes += [Delete(id_) for id_ in table["id"].to_pylist()[:500]]
    requests = make_requests(20, seed=7, refine="all", n_probe=32)
    searchers = [kind.open(half.path, slack=0.1) for kind in (ShardSearcher, ExactSearch)]
    for searcher in searchers:
        searcher.apply([Entry(seq, write) for seq, write in enumerate(writes, 1)])
    live, exact = searchers
    before = ask(exact, requests)
    for reply, true in zip(ask(live, requests), before, strict=True):
        assert_same(reply, true)
    assert live.updates is not None
    live.updates.compact().result(timeout=PATIENCE_S)
    assert live.engine.model.lists.vectors.dtype == torch.bfloat16
    for reply, true in zip(ask(live, requests), before, strict=True):
        assert_same(reply, true)
    for searcher in searchers:
        assert searcher.updates is not None
        searcher.updates.close()


def test_another_type_is_refused(publish_items: Callable[..., Catalog]) -> None:
    with pytest.raises(ValueError, match="cache: expected one of fp32, bf16, got 'fp16'"):
        publish_items(10, cache="fp16")
