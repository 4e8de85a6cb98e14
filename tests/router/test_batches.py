from __future__ import annotations

import pickle
from dataclasses import fields

import numpy as np
import pytest

from silverray.router.batch.batches import ReplyBatch, RequestBatch
from silverray.shard.api import Coverage, FilterError, Overloaded, SearchError, SearchReply, SearchRequest
from silverray.shard.model.candidate_features import FieldValues, Traits


def make_requests() -> list[SearchRequest]:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((3, 2, 4)).astype(np.float32)
    return [
        SearchRequest(vectors=vectors[0], timeout_s=0.25),
        SearchRequest(vectors=vectors[1], filter="a = 1", k=7, fields=("title", "year"), mode="bloom", n_probe=3),
        SearchRequest(vectors=vectors[2], refine="all", min_coverage=0.5, min_seq=9, explain=True, traits=("artist",)),
    ]


def make_reply(keys: list[int], texts: bool = False, **more: object) -> SearchReply:
    array = np.array(keys, dtype=np.int64)
    scores = np.linspace(1, 0, len(keys), dtype=np.float32)
    ids = [f"id {key}" for key in keys] if texts else array
    return SearchReply(ids=ids, keys=array, scores=scores, version="v1", **more)  # type: ignore[arg-type]


def same(one: object, other: object) -> bool:
    """Equal, field by field, where fields may be arrays."""
    if isinstance(one, SearchRequest | SearchReply) and type(one) is type(other):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    if isinstance(one, Traits | FieldValues) and type(one) is type(other):
        return all(same(its, part) for its, part in zip(one, other, strict=True))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return type(one) is type(other) and one == other


def travelled(batch: RequestBatch | ReplyBatch) -> RequestBatch | ReplyBatch:
    return pickle.loads(pickle.dumps(batch, protocol=5))  # type: ignore[no-any-return]


def test_every_field_of_a_request_travels() -> None:
    named = {field.name for field in fields(SearchRequest)} - {"user", "diversify"}  # which the router deals with
    assert set(RequestBatch._fields) == named
    requests = make_requests()
    batch = travelled(RequestBatch.of(requests))
    assert isinstance(batch, RequestBatch)
    assert all(same(got, sent) for got, sent in zip(batch.requests(), requests, strict=True))


def test_what_requests_share_travels_once() -> None:
    # Text stands in for a compiled filter: pickle repeats an object only where it does not know it for the same.
    shared = "x" * 5_000
    vectors = np.zeros((1, 4), dtype=np.float32)
    batch = travelled(RequestBatch.of([SearchRequest(vectors=vectors, filter=shared) for _ in range(64)]))
    assert isinstance(batch, RequestBatch)
    assert len(pickle.dumps(batch, protocol=5)) < 10_000
    assert len({id(request.filter) for request in batch.requests()}) == 1


@pytest.mark.parametrize("texts", [False, True])
def test_every_field_of_a_reply_travels(texts: bool) -> None:
    ones = np.ones((2, 4), dtype=np.float32)
    years = FieldValues(np.array([1990, 0]), np.array([True, False]))
    traits = Traits(ones, np.array([[1, -1]]), ones[:, :3], {"year": years, "price": FieldValues(np.array([0.5, 2]))})
    outcomes: list[SearchReply | SearchError] = [
        make_reply([5, 3, 9], texts, fields={"title": ["a", None, "c"]}, seq=4),
        make_reply([], texts, fields={"title": []}),
        make_reply([4, 2], texts, traits=traits),
        make_reply([7], texts, fields={"title": ["d"]}, coverage=Coverage(4, 3, 0.75), explain={"plan": "probe"}),
    ]
    batch = travelled(ReplyBatch.of(outcomes))
    assert isinstance(batch, ReplyBatch)
    assert all(same(got, sent) for got, sent in zip(batch.outcomes(), outcomes, strict=True))


def test_integer_ids_are_the_keys_and_travel_once() -> None:
    reply = make_reply(list(range(5_000)))
    assert len(pickle.dumps(ReplyBatch.of([reply]), protocol=5)) < 5_000 * (8 + 4) + 1_000


def test_errors_keep_their_places() -> None:
    late, wrong = Overloaded("busy"), FilterError("unexpected", 3, ["a number"], "write digits")
    outcomes: list[SearchReply | SearchError] = [late, make_reply([1, 2]), wrong, make_reply([3]), late]
    batch = travelled(ReplyBatch.of(outcomes))
    assert isinstance(batch, ReplyBatch)
    got = batch.outcomes()
    assert [type(outcome) for outcome in got] == [type(outcome) for outcome in outcomes]
    assert [outcome.keys.tolist() for outcome in got if isinstance(outcome, SearchReply)] == [[1, 2], [3]]
    error = got[2]
    assert isinstance(error, FilterError)
    assert (error.message, error.position, error.hint) == ("unexpected", 3, "write digits")


def test_errors_alone() -> None:
    batch = travelled(ReplyBatch.of([SearchError("broken")] * 2))
    assert isinstance(batch, ReplyBatch)
    assert [str(outcome) for outcome in batch.outcomes()] == ["broken", "broken"]
