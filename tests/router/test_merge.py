from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from silverray.router.batch.merge import MergeTask, merge_batch, merge_replies
from silverray.shard.api import Coverage, SearchReply
from silverray.shard.model.candidate_features import FieldValues, Traits

Item = tuple[int, float]

items = st.lists(st.tuples(st.integers(0, 30), st.sampled_from([-1.5, -0.0, 0.0, 0.25, 2.0])), max_size=25)
texts = st.booleans()


def ranked(found: list[Item]) -> list[Item]:
    best: dict[int, float] = {}
    for key, score in found:
        best[key] = max(score, best.get(key, score))
    return sorted(best.items(), key=lambda item: (-item[1], item[0]))


def reply(found: list[Item], text: bool = False, seq: int = 0, traits: bool = False) -> SearchReply:
    keys = [key for key, _ in found]
    array = np.array(keys, dtype=np.int64)
    return SearchReply(
        ids=[f"id {key}" for key in keys] if text else np.array(keys, dtype=np.int64),
        keys=np.array(keys, dtype=np.int64),
        scores=np.array([score for _, score in found], dtype=np.float32),
        fields={"title": [f"title {key}" for key in keys]},
        version="v1",
        seq=seq,
        traits=_traits(array) if traits else None,
    )


def _traits(keys: NDArray[np.int64]) -> Traits:
    """Of items that have as many tags as the largest key among them."""
    halves = keys[:, None].astype(np.float32) / np.float32(2)
    tags = np.tile(keys[:, None], (1, max(keys.tolist(), default=1)))
    fields = {"year": FieldValues(keys + 1900, keys > 2), "tags": FieldValues(tags)}
    return Traits(halves, np.stack([keys, -keys]), -halves, fields)


def content(merged: SearchReply) -> tuple[list[object], list[int], list[float], list[object]]:
    return list(merged.ids), merged.keys.tolist(), merged.scores.tolist(), merged.fields["title"]


@settings(derandomize=True, deadline=None)
@given(st.lists(items, min_size=1, max_size=5), st.integers(1, 40), texts)
def test_top_k_of_a_concatenation_is_the_merge_of_top_ks(parts: list[list[Item]], k: int, text: bool) -> None:
    merged = merge_replies([reply(ranked(part)[:k], text) for part in parts], k)
    expected = ranked([item for part in parts for item in part])[:k]
    assert merged.keys.tolist() == [key for key, _ in expected]
    assert merged.scores.tolist() == [score for _, score in expected]
    assert list(merged.ids) == [f"id {key}" if text else key for key, _ in expected]
    assert merged.fields == {"title": [f"title {key}" for key, _ in expected]}


@settings(derandomize=True, deadline=None)
@given(items, items, items, st.integers(1, 20), texts)
def test_associative_and_commutative(a: list[Item], b: list[Item], c: list[Item], k: int, text: bool) -> None:
    x, y, z = (reply(ranked(part)[:k], text) for part in (a, b, c))
    at_once = content(merge_replies([x, y, z], k))
    assert content(merge_replies([merge_replies([x, y], k), z], k)) == at_once
    assert content(merge_replies([x, merge_replies([y, z], k)], k)) == at_once
    assert content(merge_replies([z, x, y], k)) == at_once


def test_a_key_that_comes_twice_keeps_its_best_score() -> None:
    merged = merge_replies([reply([(4, 2.0), (1, 0.5)]), reply([(4, 3.0), (2, 0.5)])], 10)
    assert merged.keys.tolist() == [4, 1, 2]
    assert merged.scores.tolist() == [3.0, 0.5, 0.5]


def test_the_least_sequence_number_counts() -> None:
    assert merge_replies([reply([], seq=9), reply([(1, 1.0)], seq=4)], 3).seq == 4


def test_nothing_to_merge() -> None:
    with pytest.raises(ValueError, match="expected at least one"):
        merge_replies([], 3)


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.lists(items, min_size=1, max_size=3), st.integers(1, 30), texts), max_size=6))
def test_queries_merged_together_are_as_merged_alone(queries: list[tuple[list[list[Item]], int, bool]]) -> None:
    tasks = [MergeTask([reply(part, text) for part in parts], k) for parts, k, text in queries]
    together = [content(merged) for merged in merge_batch(tasks)]
    assert together == [content(merge_replies(task.replies, task.k)) for task in tasks]


def test_a_merged_reply_has_the_coverage_that_it_is_given() -> None:
    coverage = Coverage(3, 2, 0.5)
    assert merge_batch([MergeTask([reply([(1, 1.0)])], 3, coverage)])[0].coverage == coverage


def test_a_reply_without_a_score_for_each_key_is_refused() -> None:
    broken = SearchReply(ids=np.arange(2), keys=np.arange(2), scores=np.zeros(1, dtype=np.float32), version="v1")
    with pytest.raises(ValueError, match="expected 2 scores, got 1"):
        merge_replies([broken], 3)


def test_traits_follow_their_items() -> None:
    parts = [reply([(4, 2.0), (6, 0.5)], traits=True), reply([], traits=True), reply([(4, 3.0), (2, 1.5)], traits=True)]
    traits = merge_replies(parts, 2).traits
    assert traits is not None
    assert traits.vectors.tolist() == [[2.0], [1.0]] and traits.vectors.dtype == np.float32
    assert traits.codes.tolist() == [[4, 2], [-4, -2]]
    assert traits.features.tolist() == [[-2.0], [-1.0]]
    years, tags = traits.fields["year"], traits.fields["tags"]
    assert (
        years.values.tolist() == [1904, 1902] and years.present is not None and years.present.tolist() == [True, False]
    )
    assert tags.values.tolist() == [[4, 4, 4, 4, -1, -1], [2, 2, 2, 2, -1, -1]] and tags.present is None
    assert merge_replies([reply([(1, 1.0)])], 2).traits is None
    with pytest.raises(ValueError, match="expected traits in all 2, got them in 1"):
        merge_replies([reply([(4, 2.0)], traits=True), reply([(1, 1.0)])], 3)
