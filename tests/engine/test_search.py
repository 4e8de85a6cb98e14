"""Answers: the same however the catalog is cut, and short only when fewer than k items match."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from catalogs import FILTERS, make_requests

from silverray.kernels import survivors
from silverray.shard.api import DeadlineExceeded, FilterError, InvalidRequest, SearchReply, SearchRequest
from silverray.shard.index import planner
from silverray.shard.local import LocalSearcher
from silverray.shard.searcher import ExactSearch, ShardSearcher
from silverray.shard.snapshot.catalog import Catalog

Search = Callable[[Sequence[SearchRequest]], list[SearchReply]]


def ask(searcher: ShardSearcher, requests: Sequence[SearchRequest]) -> list[SearchReply]:
    replies = asyncio.run(searcher.search(requests))
    for reply in replies:
        assert isinstance(reply, SearchReply), reply
    return [reply for reply in replies if isinstance(reply, SearchReply)]


@pytest.fixture(scope="module")
def exact(catalog: Catalog) -> ExactSearch:
    return ExactSearch.open(catalog.path)


def same(reply: SearchReply, truth: SearchReply) -> None:
    np.testing.assert_array_equal(reply.scores, truth.scores)
    assert list(reply.ids) == list(truth.ids)


def timeless(explain: dict[str, Any]) -> dict[str, Any]:
    return {**explain, "batch_ms": 0, "stages": [{**stage, "ms": 0} for stage in explain["stages"]]}


def test_brute_force_agrees_with_numpy(catalog: Catalog, exact: ExactSearch) -> None:
    lists = exact.engine.model.lists
    vectors, keys = lists.vectors.double().numpy(), lists.keys.numpy()
    for request in make_requests(20, seed=1):
        plain = SearchRequest(vectors=request.vectors, k=request.k)
        scores = vectors @ plain.vectors[0].astype(np.float64)  # type: ignore[index]
        order = np.lexsort((keys, -scores))[: plain.k]
        (reply,) = ask(exact, [plain])
        np.testing.assert_allclose(reply.scores, scores[order], rtol=1e-5, atol=1e-5)
        assert set(reply.ids) == set(keys[order]) or np.diff(scores[order]).max() > -1e-5


def test_small_catalogs_are_searched_exactly_by_default(catalog: Catalog, exact: ExactSearch) -> None:
    requests = make_requests(100, seed=2, ks=(1, 10, 100, 5_000), fields=("title", "released"))
    for reply, truth in zip(ask(ShardSearcher.open(catalog.path), requests), ask(exact, requests), strict=True):
        same(reply, truth)
        assert reply.fields == truth.fields
        assert [f"title {key} é" for key in reply.ids] == reply.fields["title"]


@pytest.mark.parametrize("shards", [2, 4, 8])
def test_refine_all_and_fixed_probes_give_one_answer_on_any_number_of_shards(catalog: Catalog, shards: int) -> None:
    requests = make_requests(100, seed=3, ks=(1, 10, 1_000, 10_000), refine="all", n_probe=12)
    whole = ask(ShardSearcher.open(catalog.path), requests)
    parts = [ask(ShardSearcher.open(catalog.path, range(s, 8, shards)), requests) for s in range(shards)]
    for row, truth in enumerate(whole):
        keys = np.concatenate([part[row].keys for part in parts])
        scores = np.concatenate([part[row].scores for part in parts])
        order = np.lexsort((keys, -scores))[: requests[row].k]
        assert keys[order].tolist() == truth.keys.tolist()
        np.testing.assert_array_equal(scores[order], truth.scores)


def test_the_order_of_partitions_and_the_batch_do_not_matter(catalog: Catalog) -> None:
    requests = make_requests(40, seed=4, n_probe=5)
    forward, backward = (ShardSearcher.open(catalog.path, order) for order in (range(8), range(7, -1, -1)))
    together = ask(forward, requests)
    for one, other in zip(together, ask(backward, requests), strict=True):
        same(one, other)
    for request, reply in zip(requests, together, strict=True):
        same(ask(forward, [request])[0], reply)


def test_what_a_planned_query_finds_does_not_depend_on_its_neighbours(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "SURVIVORS", 10)
    searcher = ShardSearcher.open(catalog.path)
    requests = make_requests(60, seed=13, ks=(1, 10, 60), explain=True)
    for request, reply in zip(requests, ask(searcher, requests), strict=True):
        (alone,) = ask(searcher, [request])
        same(reply, alone)
        assert reply.explain is not None and alone.explain is not None
        assert timeless(reply.explain) == timeless(alone.explain)


def test_bits_of_many_filters_are_held_a_part_at_a_time(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher, requests = ShardSearcher.open(catalog.path), make_requests(40, seed=21, ks=(1, 10, 60))
    expected = ask(searcher, requests)
    for words in (1, 500):
        monkeypatch.setattr(survivors, "MAX_WORDS", words)
        for reply, wanted in zip(ask(searcher, requests), expected, strict=True):
            same(reply, wanted)


def test_probing_finds_most_of_the_truth_and_its_scores_are_exact(
    catalog: Catalog, exact: ExactSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "SURVIVORS", 50)
    requests = make_requests(200, seed=5, ks=(10, 50), explain=True)
    hits = wanted = probed = 0
    for reply, truth in zip(ask(ShardSearcher.open(catalog.path), requests), ask(exact, requests), strict=True):
        assert len(reply.scores) == len(truth.scores)
        true = dict(zip(truth.keys.tolist(), truth.scores.tolist(), strict=True))
        for key, score in zip(reply.keys.tolist(), reply.scores.tolist(), strict=True):
            assert true.get(key, score) == score
        if len(truth.scores):
            hits += int((reply.scores >= truth.scores[-1] - 1e-5).sum())
            wanted += len(truth.scores)
        probed += reply.explain is not None and reply.explain["plan"] == "probe"
    assert probed > 100
    assert hits / wanted >= 0.95


def test_an_answer_from_60_000_items_is_short_only_when_fewer_match(publish_items: Callable[..., Catalog]) -> None:
    made = publish_items(60_000, seed=7)
    searcher = ShardSearcher.open(made.path)
    vectors = [request.vectors for request in make_requests(2, seed=12)]
    plans = set()
    for k in (1, 10, 100, 1_000, 10_000):
        for passing in (0, 1, k - 1, k, 6, 3_000, 30_000, 60_000):
            for text in (f"rank < {passing}", f"not (rank >= {passing} or artist = 'never heard of')"):
                requests = [SearchRequest(vectors=vector, filter=text, k=k, explain=True) for vector in vectors]
                for reply in ask(searcher, requests):
                    assert len(reply.keys) == len(set(reply.keys.tolist())) == min(k, passing), (text, k)
                    plans.add(reply.explain["plan"])  # type: ignore[index]
    assert plans == {"survivors", "probe"}


def test_probed_answers_are_short_only_when_fewer_items_match(
    catalog: Catalog, exact: ExactSearch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "SURVIVORS", 10)
    searcher = ShardSearcher.open(catalog.path)
    vector = make_requests(1, seed=6)[0].vectors
    texts = [f"rank < {count}" for count in (0, 1, 9, 10, 99, 100, 150, 999, 1_000, 3_000)]
    texts += ['artist = "artist 1"', 'not artist = "artist 1"', 'artist in ("artist 7", "never heard of")']
    for k in (1, 10, 100, 1_000, 10_000):
        requests = [SearchRequest(vectors=vector, filter=text, k=k) for text in texts]
        for text, reply in zip(texts, ask(searcher, requests), strict=True):
            matching = len(ask(exact, [SearchRequest(vectors=vector, filter=text, k=10_000)])[0].keys)
            assert len(reply.keys) == min(k, matching), (text, k)


def test_n_probe_is_kept_and_says_when_it_left_an_answer_short(catalog: Catalog) -> None:
    searcher = ShardSearcher.open(catalog.path)
    vector = make_requests(1, seed=7)[0].vectors
    request = SearchRequest(vectors=vector, k=3_000, n_probe=1, explain=True)
    (reply,) = ask(searcher, [request])
    assert reply.explain is not None
    assert reply.explain["probes"] == 1
    assert reply.explain["short"]
    assert len(reply.keys) == reply.explain["scored"] < 3_000
    (everything,) = ask(searcher, [SearchRequest(vectors=vector, k=3_000, n_probe=9_999)])
    assert len(everything.keys) == 3_000


def test_bloom_mode_adds_only_items_and_never_breaks_a_not(catalog: Catalog, exact: ExactSearch) -> None:
    searcher = ShardSearcher.open(catalog.path)
    for text in ['artist = "artist 9"', 'not artist = "artist 1"', 'artist = "artist 2" and not artist = "artist 3"']:
        requests = [SearchRequest(vectors=make_requests(1, seed=8)[0].vectors, filter=text, k=10_000, mode="bloom")]
        found, true = (set(ask(by, requests)[0].keys.tolist()) for by in (searcher, exact))
        assert true <= found
        if text.startswith("not"):
            assert found == true


def test_string_ids_and_cosine(publish_items: Callable[..., Catalog]) -> None:
    made = publish_items(400, metric="cosine", strings=True)
    local = LocalSearcher.open(made.path)
    queries = np.concatenate([request.vectors for request in make_requests(5, seed=9)])
    found = local.search_batch(queries, k=7)
    again = local.search_batch(queries * 1000, k=7)
    assert found.ids.tolist() == again.ids.tolist()
    assert all(text.startswith("item-") and text.endswith("-ü") for text in found.ids.ravel())
    assert found.scores.max() <= 1 + 1e-6
    assert (np.diff(found.scores) <= 0).all()


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        (5, "requests: expected a list of SearchRequest, got 5"),
        ("year", "requests: expected a list of SearchRequest, got 'year'"),
        (SearchRequest(), "requests: expected a list of SearchRequest, got "),
        ([SearchRequest(), {}], r"requests\[1\]: expected a SearchRequest, got "),
    ],
)
def test_what_is_no_batch_is_refused_by_name(catalog: Catalog, requests: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{message}"):
        asyncio.run(ShardSearcher.open(catalog.path).search(requests))


def test_requests_that_are_wrong_or_late_get_their_own_error(catalog: Catalog) -> None:
    good = make_requests(1, seed=10)[0]
    wrong = [
        SearchRequest(vectors=np.ones((1, 3), np.float32)),
        SearchRequest(vectors=np.full((1, 16), np.nan, np.float32)),
        SearchRequest(vectors=np.ones((2, 16), np.float32)),
        SearchRequest(vectors=good.vectors, k=0),
        SearchRequest(vectors=good.vectors, k=10_001),
        SearchRequest(vectors=good.vectors, n_probe=0),
        SearchRequest(vectors=good.vectors, min_coverage=1.5),
        SearchRequest(vectors=good.vectors, fields=("nothing",)),
        SearchRequest(vectors=good.vectors, filter="year >"),
        SearchRequest(),
        SearchRequest(vectors=good.vectors, timeout_s=0.0),
    ]
    replies = asyncio.run(ShardSearcher.open(catalog.path).search([*wrong, good]))
    assert [type(reply) for reply in replies] == [
        *[InvalidRequest] * 8, FilterError, InvalidRequest, DeadlineExceeded, SearchReply,
    ]  # fmt: skip
    assert [reply.where for reply in replies[:10]] == [  # type: ignore[union-attr]
        "vector", "vector", "vector", "k", "k", "n_probe", "min_coverage", "fields[0]", "filter", None,
    ]  # fmt: skip


def test_local_search_by_query_filters(catalog: Catalog) -> None:
    local = LocalSearcher.open(catalog.path, partitions=[0, 1])
    queries = np.concatenate([request.vectors for request in make_requests(11, seed=11)])
    found = local.search_batch(queries, FILTERS, k=5, n_probe=64, refine="all")
    assert found.ids.shape == found.scores.shape == (11, 5)
    for row, count in enumerate(found.counts):
        assert (found.ids[row, count:] == -1).all()
        assert (found.scores[row, count:] == -np.inf).all()
    with pytest.raises(ValueError, match="filters: expected one for each"):
        local.search_batch(queries, ["year > 1"], k=5)
    with pytest.raises(FilterError, match=r"queries\[1\].filter"):
        local.search_batch(queries[:2], [None, "year >"], k=5)
