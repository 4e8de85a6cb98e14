from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from silverray.router.batch.merge import merge
from silverray.shard.api import Coverage, SearchReply, TaskScores
from silverray.shard.model.candidate_features import CandidateFeatures, FieldValues
from silverray.shard.result_batch import FeaturedReply, ResultBatch, featured

Item = tuple[int, float]

items = st.lists(st.tuples(st.integers(0, 30), st.sampled_from([-1.5, -0.0, 0.0, 0.25, 2.0])), max_size=25)
texts = st.booleans()


def ranked(found: list[Item]) -> list[Item]:
    best: dict[int, float] = {}
    for key, score in found:
        best[key] = max(score, best.get(key, score))
    return sorted(best.items(), key=lambda item: (-item[1], item[0]))


def merge_replies(replies: list[SearchReply], k: int) -> SearchReply:
    """The merge of a query alone."""
    (merged,) = merge([ResultBatch.of([reply], "v1") for reply in replies], [k], [Coverage()]).rows()
    assert isinstance(merged, SearchReply)
    return merged


def reply(found: list[Item], text: bool = False, seq: int = 0, features: bool = False) -> SearchReply:
    keys = [key for key, _ in found]
    array = np.array(keys, dtype=np.int64)
    made = SearchReply(
        ids=[f"id {key}" for key in keys] if text else np.array(keys, dtype=np.int64),
        keys=np.array(keys, dtype=np.int64),
        scores=np.array([score for _, score in found], dtype=np.float32),
        fields={"title": [f"title {key}" for key in keys]},
        version="v1",
        seq=seq,
    )
    return featured(made, _features(array)) if features else made


def _features(keys: NDArray[np.int64]) -> CandidateFeatures:
    """Of items that have as many tags as the largest key among them."""
    halves = keys[:, None].astype(np.float32) / np.float32(2)
    tags = np.tile(keys[:, None], (1, max(keys.tolist(), default=1)))
    fields = {"year": FieldValues(keys + 1900, keys > 2), "tags": FieldValues(tags)}
    return CandidateFeatures(halves, np.stack([keys, -keys]), -halves, fields)


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
@given(
    st.integers(1, 3).flatmap(
        lambda parts: st.lists(
            st.tuples(st.lists(items, min_size=parts, max_size=parts), st.integers(1, 30)), max_size=6
        )
    ),
    texts,
    st.booleans(),
)
def test_queries_merged_together_are_as_merged_alone(
    queries: list[tuple[list[list[Item]], int]], text: bool, features: bool
) -> None:
    if not queries:
        return
    replies = [[reply(part, text, features=features) for part in parts] for parts, _ in queries]
    batches = [ResultBatch.of(list(own), "v1") for own in zip(*replies, strict=True)]
    together = merge(batches, [k for _, k in queries], [Coverage()] * len(queries))
    together.check(len(queries))
    for row, parts, (_, k) in zip(together.rows(), replies, queries, strict=True):
        alone = merge_replies(parts, k)
        assert isinstance(row, SearchReply)
        assert content(row) == content(alone)
        if features:
            assert isinstance(row, FeaturedReply) and isinstance(alone, FeaturedReply)
            assert row.features.codes.tolist() == [row.keys.tolist(), (-row.keys).tolist()]
            assert row.features.vectors.tolist() == alone.features.vectors.tolist()


def test_a_merged_reply_has_the_coverage_that_it_is_given() -> None:
    coverage = Coverage(3, 2, 0.5)
    assert merge([ResultBatch.of([reply([(1, 1.0)])], "v1")], [1], [coverage]).coverages == (coverage,)


def test_parts_that_are_ranked_and_parts_that_are_not_cannot_be_merged() -> None:
    table = np.zeros((1, 2), dtype=np.float32)
    ranked_reply = replace(reply([(4, 2.0)]), tasks=TaskScores(("a", "b"), table, table))
    assert merge_replies([ranked_reply, ranked_reply], 3).tasks is not None
    with pytest.raises(ValueError, match="expected all 2 lists of a query to be ranked or none"):
        merge_replies([ranked_reply, reply([(1, 1.0)])], 3)


def test_features_follow_their_items() -> None:
    parts = [reply([(4, 2.0), (6, 0.5)], features=True), reply([], features=True)]
    merged = merge_replies([*parts, reply([(4, 3.0), (2, 1.5)], features=True)], 2)
    assert isinstance(merged, FeaturedReply)
    features = merged.features
    assert features.vectors.tolist() == [[2.0], [1.0]] and features.vectors.dtype == np.float32
    assert features.codes.tolist() == [[4, 2], [-4, -2]]
    assert features.features.tolist() == [[-2.0], [-1.0]]
    years, tags = features.fields["year"], features.fields["tags"]
    assert (
        years.values.tolist() == [1904, 1902] and years.present is not None and years.present.tolist() == [True, False]
    )
    assert tags.values.tolist() == [[4, 4, 4, 4, -1, -1], [2, 2, 2, 2, -1, -1]] and tags.present is None
    assert type(merge_replies([reply([(1, 1.0)])], 2)) is SearchReply
    with pytest.raises(ValueError, match="expected all 2 lists of a query to be with features or none"):
        merge_replies([reply([(4, 2.0)], features=True), reply([(1, 1.0)])], 3)
