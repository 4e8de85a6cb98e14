from __future__ import annotations

import pickle
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest

from silverray.shard.api import Coverage, FilterError, Overloaded, SearchError, SearchReply, TaskScores
from silverray.shard.model.candidate_features import CandidateFeatures, FieldValues
from silverray.shard.result_batch import FeaturedReply, Outcome, ResultBatch, featured


def make_reply(keys: list[int], texts: bool = False, **more: Any) -> SearchReply:
    array = np.array(keys, dtype=np.int64)
    scores = np.linspace(1, 0, len(keys), dtype=np.float32)
    return SearchReply(
        ids=[f"id {key}" for key in keys] if texts else array, keys=array, scores=scores, version="v1", **more
    )


def make_features() -> CandidateFeatures:
    ones = np.ones((2, 4), dtype=np.float32)
    years = FieldValues(np.array([1990, 0]), np.array([True, False]))
    fields = {"year": years, "price": FieldValues(np.array([0.5, 2]))}
    return CandidateFeatures(ones, np.array([[1, -1]]), ones[:, :3], fields)


def same(one: object, other: object) -> bool:
    """Equal, part by part, where parts may be arrays."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if is_dataclass(one) and type(one) is type(other):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def make_outcomes(texts: bool) -> list[Outcome]:
    tags = [["a", "b"], ["c", "d"], []]  # as long as each other: they must not become a table
    tasks = TaskScores(("click",), np.array([[0.5]], np.float32), np.array([[0.25]], np.float32))
    return [
        make_reply([5, 3, 9], texts, fields={"title": ["a", None, "c"], "tags": tags}, seq=4),
        make_reply([], texts, fields={"title": []}),
        featured(make_reply([4, 2], texts), make_features()),
        Overloaded("busy"),
        make_reply([7], texts, fields={"title": ["d"]}, coverage=Coverage(4, 3, 0.75), explain={"plan": "probe"}),
        make_reply([8], texts, tasks=tasks),
    ]


def travelled(batch: ResultBatch) -> ResultBatch:
    made: ResultBatch = pickle.loads(pickle.dumps(batch, protocol=5))
    return made


@pytest.mark.parametrize("texts", [False, True])
def test_every_part_of_a_reply_travels(texts: bool) -> None:
    outcomes = make_outcomes(texts)
    batch = travelled(ResultBatch.of(outcomes, "v1"))
    batch.check(len(outcomes))
    for got, sent in zip(batch.rows(), outcomes, strict=True):
        assert str(got) == str(sent) if isinstance(sent, SearchError) else same(got, sent)


def test_integer_ids_are_the_keys_and_travel_once() -> None:
    reply = make_reply(list(range(5_000)))
    assert len(pickle.dumps(ResultBatch.of([reply], "v1"), protocol=5)) < 5_000 * (8 + 4) + 1_500


@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize("places", [[0, 1, 2, 3, 4, 5], [5, 0, 3, 2], [1], [], [4, 4, 2]])
def test_some_of_a_batch_in_any_order(texts: bool, places: list[int]) -> None:
    outcomes = make_outcomes(texts)
    some = ResultBatch.of(outcomes, "v1").take(places)
    some.check(len(places))
    for got, place in zip(some.rows(), places, strict=True):
        expected = outcomes[place]
        assert str(got) == str(expected) if isinstance(expected, SearchError) else same(got, expected)


def test_errors_take_their_places() -> None:
    late, wrong = Overloaded("busy"), FilterError("unexpected", 3, ["a number"], "write digits")
    batch = ResultBatch.of([make_reply([1, 2]), make_reply([3])], "v1")
    rows = travelled(batch.beside({0: late, 2: wrong})).rows()
    assert [type(row) for row in rows] == [Overloaded, SearchReply, FilterError, SearchReply]
    assert [row.keys.tolist() for row in rows if isinstance(row, SearchReply)] == [[1, 2], [3]]
    error = rows[2]
    assert isinstance(error, FilterError)
    assert (error.message, error.position, error.hint) == ("unexpected", 3, "write digits")
    rows = batch.instead({1: late}).rows()
    assert [type(row) for row in rows] == [SearchReply, Overloaded]


def test_errors_alone() -> None:
    batch = travelled(ResultBatch.of([SearchError("broken")] * 2, "v1"))
    assert [str(row) for row in batch.rows()] == ["broken", "broken"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"scores": np.zeros(1, np.float32)}, "expected 3 items, got columns of"),
        ({"fields": {"title": np.full(2, None)}}, "expected 3 items, got columns of"),
        ({"ids": np.full(4, "x", dtype=object)}, "expected 3 items, got columns of"),
        ({"seqs": (0,)}, r"expected 2 outcomes, got columns of \[2, 2, 1, 2, 2\]"),
    ],
)
def test_columns_that_do_not_fit_are_noticed(wrong: dict[str, Any], message: str) -> None:
    batch = ResultBatch.of([make_reply([1, 2]), make_reply([3])], "v1")
    batch.check(2)
    with pytest.raises(ValueError, match=message):
        replace(batch, **wrong).check(2)


def test_features_follow_their_items() -> None:
    reply = featured(make_reply([4, 2]), make_features()).take(np.array([1]))
    assert isinstance(reply, FeaturedReply)
    assert (reply.keys.tolist(), reply.features.codes.tolist()) == ([2], [[-1]])
    assert type(reply.plain()) is SearchReply and reply.plain().keys.tolist() == [2]
