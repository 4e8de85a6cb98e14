"""Deadlines, coverage and faults of the router, against shards that misbehave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from silverray.router.errors import Unavailable
from silverray.shard.api import (
    CoverageTooLow,
    DeadlineExceeded,
    EncoderUnavailable,
    InvalidRequest,
    Overloaded,
    SearchError,
    SearchReply,
    SearchRequest,
    SequenceNotReached,
    TaskScores,
)
from silverray.shard.query import Query, QueryBatch
from silverray.shard.result_batch import ResultBatch
from silverray.shard.schema.user_features import BucketFeature, HistoryFeature, UserFeatures

from .conftest import small_query

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("virtual_time")]

Vector = NDArray[np.float32]


def ask(query: Vector, **given: Any) -> SearchRequest:
    return SearchRequest(vectors=query[np.newaxis], **given)


async def answer(house: Any, request: SearchRequest) -> SearchReply:
    (outcome,) = await house.router.search([request])
    assert isinstance(outcome, SearchReply), outcome
    return outcome


async def failure(house: Any, request: SearchRequest) -> SearchError:
    (outcome,) = await house.router.search([request])
    assert isinstance(outcome, SearchError), outcome
    return outcome


async def test_the_answer_is_that_of_the_whole_catalog(make_house: Any, query: Vector) -> None:
    house = make_house()
    ks = [1, 10, 11, 100, 399, 400, 1_000, 10_000]
    outcomes = await house.router.search([ask(query, k=k, fields=("title",)) for k in ks])
    for k, reply in zip(ks, outcomes, strict=True):
        expected = house.best(query, k)
        np.testing.assert_array_equal(reply.keys, expected.keys)
        np.testing.assert_array_equal(reply.ids, expected.ids)
        np.testing.assert_array_equal(reply.scores, expected.scores)
        assert reply.fields["title"] == [f"Title {key}" for key in expected.keys]
        assert (reply.version, reply.seq) == ("v1", 7)
        coverage = reply.coverage
        assert (coverage.shards, coverage.answered, coverage.items_fraction) == (4, 4, 1.0)
        assert not coverage.degraded


async def test_large_merges_run_in_a_thread_with_the_same_answer(make_house: Any, query: Vector) -> None:
    house = make_house(items=9_000)
    reply = await answer(house, ask(query, k=5_000, fields=("title",)))
    np.testing.assert_array_equal(reply.keys, house.best(query, 5_000).keys)


async def test_explain_names_the_shards(make_house: Any, query: Vector) -> None:
    house = make_house()
    reply = await answer(house, ask(query, k=1_000, explain=True))
    assert reply.explain == {"short": True, "shards": {f"shard-{i}": {"plan": "stub"} for i in range(4)}}


@pytest.mark.parametrize("fault", ["raise", "cancel", "fewer", "refuse"])
async def test_a_shard_that_fails_is_missing_at_once(make_house: Any, query: Vector, fault: str) -> None:
    house = make_house()
    house.shards[1].does = fault
    began = time.monotonic()
    reply = await answer(house, ask(query, k=20))
    assert time.monotonic() - began < 2
    assert reply.coverage.answered == 3 and reply.coverage.degraded
    assert reply.coverage.items_fraction == 0.75
    there = np.concatenate([house.shards[i].keys for i in (0, 2, 3)])
    assert np.isin(reply.keys, there).all() and len(reply.keys) == 20
    house.shards[1].does = "well"
    assert not (await answer(house, ask(query))).coverage.degraded


async def test_an_answer_from_another_version_does_not_count(make_house: Any, query: Vector) -> None:
    house = make_house()
    house.shards[3].version = "v2"
    reply = await answer(house, ask(query, k=400))
    assert reply.coverage.answered == 3
    assert not np.isin(reply.keys, house.shards[3].keys).any()


async def test_results_whose_columns_do_not_fit_are_no_answer(make_house: Any, query: Vector) -> None:
    house = make_house()
    house.shards[0].does = "junk"
    reply = await answer(house, ask(query, k=20, fields=("title",)))
    assert reply.coverage.answered == 3 and len(reply.keys) == len(reply.fields["title"]) == 20
    house.shards[0].does = "well"
    assert not (await answer(house, ask(query))).coverage.degraded


@pytest.mark.parametrize("short", [{"coverages": ()}, {"seqs": ()}, {"names": ()}, {"offsets": np.array([0, 3])}])
async def test_a_shard_whose_columns_are_short_has_failed_and_holds_nobody_up(
    make_house: Any, query: Vector, short: dict[str, Any]
) -> None:
    house = make_house(slots=1)
    well = house.shards[0].answer

    async def answer_less(batch: QueryBatch) -> ResultBatch:
        results: ResultBatch = await well(batch)
        return replace(results, **short)

    house.shards[0].answer = answer_less
    for reply in await house.router.search([ask(query, k=20), ask(query, k=20)]):
        assert isinstance(reply, SearchReply) and reply.coverage.answered == 3
    assert (await answer(house, ask(query, k=20))).coverage.answered == 3, "the slot is free again"


async def test_a_reply_that_cannot_be_merged_fails_its_own_request_alone(make_house: Any, query: Vector) -> None:
    house = make_house()
    well: Callable[[Query], SearchReply] = house.shards[0]._reply

    def reply(query: Query) -> SearchReply:  # ranked, as no other shard's is
        found = well(query)
        table = np.zeros((len(found.keys), 1), dtype=np.float32)
        return replace(found, tasks=TaskScores(("default",), table, table)) if query.k == 3 else found

    house.shards[0]._reply = reply
    broken, whole = await house.router.search([ask(query, k=3), ask(query, k=4)])
    assert isinstance(broken, SearchError)
    assert (broken.code, broken.message) == ("internal", "internal error")
    assert isinstance(whole, SearchReply)
    assert whole.keys.tolist() == house.best(query, 4).keys.tolist()
    assert len(house.shards[0].batches) == 1


async def test_a_hanging_shard_is_cut_at_the_deadline(make_house: Any, query: Vector) -> None:
    house = make_house()
    house.shards[2].does = "hang"
    began = time.monotonic()
    reply = await answer(house, ask(query, timeout_s=0.15))
    assert 0.14 < time.monotonic() - began < 0.6
    assert reply.coverage.answered == 3
    await asyncio.sleep(0)
    assert house.shards[2].cancelled == 1


async def test_each_request_of_a_batch_has_its_own_deadline(make_house: Any, query: Vector) -> None:
    house = make_house()
    house.shards[0].delay_s = 0.5
    short = asyncio.create_task(answer(house, ask(query, timeout_s=0.1)))
    long = asyncio.create_task(answer(house, ask(query, timeout_s=5)))
    began = time.monotonic()
    assert (await short).coverage.answered == 3
    assert time.monotonic() - began < 0.4
    assert (await long).coverage.answered == 4
    assert len(house.shards[0].batches) == 1, "they shared a batch"


async def test_the_deadline_holds_with_a_shard_that_does_not_let_itself_be_cancelled(
    make_house: Any, query: Vector
) -> None:
    house = make_house()
    house.shards[0].does = "deaf"
    began = time.monotonic()
    assert (await answer(house, ask(query, timeout_s=0.1))).coverage.answered == 3
    assert time.monotonic() - began < 0.3


async def test_no_shard_in_time(make_house: Any, query: Vector) -> None:
    house = make_house()
    for shard in house.shards:
        shard.does = "hang"
    error = await failure(house, ask(query, timeout_s=0.1))
    assert isinstance(error, DeadlineExceeded) and error.status == 504
    assert isinstance(await failure(house, ask(query, timeout_s=0.0)), DeadlineExceeded)


async def test_all_shards_broken(make_house: Any, query: Vector) -> None:
    house = make_house()
    for shard in house.shards:
        shard.does = "raise"
    error = await failure(house, ask(query))
    assert isinstance(error, Unavailable) and error.status == 503


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Overloaded("full"), Overloaded),
        (InvalidRequest("no", "k"), InvalidRequest),
        (DeadlineExceeded("late"), DeadlineExceeded),
        (SequenceNotReached("behind"), SequenceNotReached),
    ],
)
async def test_what_all_shards_say_is_the_answer(
    make_house: Any, query: Vector, error: SearchError, expected: type[SearchError]
) -> None:
    house = make_house()
    for shard in house.shards:
        shard.does, shard.error = "refuse", error
    assert type(await failure(house, ask(query, timeout_s=0.2))) is expected


async def test_min_coverage(make_house: Any, query: Vector) -> None:
    house = make_house()
    house.shards[0].does = "raise"
    assert (await answer(house, ask(query, min_coverage=0.75))).coverage.items_fraction == 0.75
    error = await failure(house, ask(query, min_coverage=0.76))
    assert isinstance(error, CoverageTooLow) and error.where == "min_coverage"
    assert "got 0.75 from 3 of 4 shards" in error.message


async def test_min_seq_is_that_of_the_slowest_shard(make_house: Any, query: Vector) -> None:
    house = make_house()
    house.shards[2].seq = 3
    assert (await answer(house, ask(query, min_seq=3))).seq == 3
    assert isinstance(await failure(house, ask(query, min_seq=4, timeout_s=0.1)), SequenceNotReached)
    assert len(house.shards[2].batches) > 2, "it was asked again"


async def test_min_seq_is_waited_for_without_holding_up_others(make_house: Any, query: Vector) -> None:
    house = make_house(slots=1)
    house.shards[2].seq = 3
    late = asyncio.create_task(house.router.search([ask(query, min_seq=4, k=3), ask(query, k=2)] * 30))
    began = time.monotonic()
    for _ in range(5):
        assert len((await answer(house, ask(query, timeout_s=5))).keys) == 10
    assert time.monotonic() - began < 4 and not late.done()
    house.shards[2].seq = 4
    outcomes = await late
    assert [(reply.seq, len(reply.keys)) for reply in outcomes] == [(4, 3), (3, 2)] * 30


async def test_a_min_seq_that_nobody_can_have_is_refused_at_once(make_house: Any, query: Vector) -> None:
    house = make_house()
    error = await failure(house, ask(query, min_seq=2**62, timeout_s=60))
    assert isinstance(error, InvalidRequest) and error.where == "min_seq"
    assert "has not reached sequence number 4611686018427387904: expected at most 7" in error.message
    assert not any(shard.batches for shard in house.shards)
    body = {"queries": [{"vector": query.tolist()}, {"vector": query.tolist(), "min_seq": 8}]}
    response = await house.client.post("/v1/search", json=body)
    assert (response.status_code, response.json()["error"]["where"]) == (422, "queries[1].min_seq")


async def test_only_shards_that_lag_are_asked_again(make_house: Any, query: Vector) -> None:
    house = make_house()
    house.shards[2].seq = 3
    late = asyncio.create_task(answer(house, ask(query, min_seq=4, k=400, timeout_s=5)))
    while len(house.shards[2].batches) < 4:  # the search, and three small questions
        await asyncio.sleep(0.005)
    assert [len(house.shards[i].batches) for i in (0, 1, 3)] == [1, 1, 1]
    assert [request.k for batch in house.shards[2].batches[1:] for request in batch] == [1, 1, 1]
    house.shards[2].seq = 4
    reply = await late
    np.testing.assert_array_equal(reply.keys, house.best(query, 400).keys)
    assert (reply.seq, reply.coverage.answered) == (4, 4)
    assert [len(house.shards[i].batches) for i in (0, 1, 3)] == [1, 1, 1]


async def test_what_a_shard_has_said_counts_though_it_hangs_meanwhile(make_house: Any, query: Vector) -> None:
    house = make_house()
    house.shards[2].seq = 3
    late = asyncio.create_task(answer(house, ask(query, min_seq=4, k=400, timeout_s=5)))
    while len(house.shards[2].batches) < 2:
        await asyncio.sleep(0.005)
    lane = house.router._fanout._lanes[0]
    lane.hanging, lane.calls = True, 8  # so that it is left out of the next flight
    house.shards[2].seq = 4
    reply = await late
    assert (reply.seq, reply.coverage.answered) == (4, 4)
    np.testing.assert_array_equal(reply.keys, house.best(query, 400).keys)


async def test_queries_of_another_router_are_counted_too(make_house: Any, query: Vector) -> None:
    house = make_house()
    results = await house.router.answer(QueryBatch.of([small_query(query, k=5), small_query(query, k=7)]))
    assert np.diff(results.offsets).tolist() == [5, 7]
    document = house.router.to_document()
    assert (document["requests"], document["replies"], document["pending"]) == (2, 2, 0)


async def test_many_that_wait_are_one_question_and_take_no_places(make_house: Any, query: Vector) -> None:
    house = make_house(max_pending=64, max_waiting=200)
    house.shards[2].seq = 3
    late = []
    for _ in range(4):
        late.append(asyncio.create_task(house.router.search([ask(query, min_seq=4, timeout_s=30)] * 50)))
        while house.router.to_document()["waiting_for_writes"] < 50 * len(late):
            await asyncio.sleep(0.005)
    assert house.router.to_document()["pending"] == 0
    asked = len(house.shards[2].batches)
    await asyncio.sleep(0.2)
    questions = house.shards[2].batches[asked:]
    assert len(questions) <= 8 and all(len(batch) == 1 for batch in questions)
    assert len((await answer(house, ask(query))).keys) == 10
    (refused,) = await house.router.search([ask(query, min_seq=4)])
    assert isinstance(refused, Overloaded) and "200 of 200 requests wait for a write" in refused.message
    house.shards[2].seq = 4
    for outcomes in await asyncio.gather(*late):
        assert [reply.seq for reply in outcomes] == [4] * 50
    assert house.router.to_document()["waiting_for_writes"] == house.router.to_document()["pending"] == 0


async def test_a_caller_that_leaves_while_it_waits_for_a_write_leaves_nothing(make_house: Any, query: Vector) -> None:
    house = make_house()
    house.shards[2].seq = 3
    task = asyncio.create_task(house.router.search([ask(query, min_seq=4)] * 3))
    while not house.router.to_document()["waiting_for_writes"]:
        await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert house.router.to_document()["waiting_for_writes"] == house.router.to_document()["pending"] == 0
    await asyncio.sleep(0.1)
    asked = len(house.shards[2].batches)
    await asyncio.sleep(0.1)
    assert len(house.shards[2].batches) == asked, "nobody is asked any more"


async def test_a_shard_that_falls_silent_does_not_hide_that_it_lags(make_house: Any, query: Vector) -> None:
    house = make_house()
    house.shards[2].seq = 3
    late = asyncio.create_task(failure(house, ask(query, min_seq=4, timeout_s=0.3)))
    await asyncio.sleep(0.05)
    for shard in house.shards:
        shard.does = "hang"
    assert isinstance(await late, SequenceNotReached)


async def test_a_hanging_shard_does_not_hold_up_the_others(make_house: Any, query: Vector) -> None:
    house = make_house(slots=1, max_batch=1)
    house.shards[1].does = "hang"
    await answer(house, ask(query, timeout_s=0.1))
    began = time.monotonic()
    # One at a time and 0.3 s each would take six seconds.
    outcomes = await asyncio.gather(*(answer(house, ask(query, timeout_s=0.3)) for _ in range(20)))
    assert time.monotonic() - began < 2
    assert {reply.coverage.answered for reply in outcomes} == {3}
    assert len(house.shards[1].batches) < 20, "it was left out of some"
    house.shards[1].does = "well"
    assert (await answer(house, ask(query, timeout_s=5))).coverage.answered == 4
    assert (await answer(house, ask(query, timeout_s=5))).coverage.answered == 4
    assert not house.router.to_document()["backends"][1]["hanging"]


async def test_requests_queued_behind_a_dying_shard_are_answered_by_the_others(make_house: Any, query: Vector) -> None:
    house = make_house(slots=1, max_batch=1)
    assert (await answer(house, ask(query, timeout_s=5))).coverage.answered == 4
    house.shards[1].does = "hang"
    first = asyncio.create_task(answer(house, ask(query, timeout_s=2)))
    await asyncio.sleep(0.01)
    # The first holds the only slot; its own deadline is far off, that of the second is not.
    assert (await answer(house, ask(query, timeout_s=0.5))).coverage.answered == 3
    assert (await first).coverage.answered == 3


async def test_a_slow_shard_is_given_as_long_as_it_took_lately(make_house: Any, query: Vector) -> None:
    house = make_house(slots=1, max_batch=1)
    house.shards[1].delay_s = 0.1
    for _ in range(3):
        assert (await answer(house, ask(query, timeout_s=5))).coverage.answered == 4
        assert not house.router.to_document()["backends"][1]["hanging"]


async def test_a_full_queue_refuses_at_once(make_house: Any, query: Vector) -> None:
    house = make_house(max_pending=8)
    for shard in house.shards:
        shard.delay_s = 0.3
    waiting = [asyncio.create_task(house.router.search([ask(query)])) for _ in range(8)]
    await asyncio.sleep(0)
    began = time.monotonic()
    with pytest.raises(Overloaded, match="8 of 8"):
        await house.router.search([ask(query)])
    assert time.monotonic() - began < 0.1
    for outcome in await asyncio.gather(*waiting):
        assert isinstance(outcome[0], SearchReply)
    assert isinstance((await house.router.search([ask(query)]))[0], SearchReply)


async def test_a_request_that_expires_in_the_queue_is_not_sent(make_house: Any, query: Vector) -> None:
    house = make_house(slots=1, max_batch=1)
    for shard in house.shards:
        shard.delay_s = 0.3
    first = asyncio.create_task(answer(house, ask(query, k=5)))
    await asyncio.sleep(0.05)
    began = time.monotonic()
    error = await failure(house, ask(query, k=6, timeout_s=0.05))
    assert isinstance(error, DeadlineExceeded) and "not sent" in error.message
    assert time.monotonic() - began < 0.2
    await first
    assert [batch[0].k for batch in house.shards[0].batches] == [5]


async def test_a_caller_that_leaves_frees_its_place(make_house: Any, query: Vector) -> None:
    house = make_house(max_pending=1)
    house.shards[0].does = "hang"
    task = asyncio.create_task(house.router.search([ask(query, timeout_s=5)]))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert house.router.to_document()["pending"] == 0
    house.shards[0].does = "well"
    assert isinstance((await house.router.search([ask(query, timeout_s=0.5)]))[0], SearchReply)


async def test_shards_get_the_time_that_is_left(make_house: Any, query: Vector) -> None:
    house = make_house(slots=1, max_batch=1)
    for shard in house.shards:
        shard.delay_s = 0.25
    await asyncio.gather(answer(house, ask(query)), answer(house, ask(query, timeout_s=2)), answer(house, ask(query)))
    _, (timed,), (endless,) = house.shards[0].batches
    assert timed.timeout_s == pytest.approx(1.75)
    assert endless.timeout_s == pytest.approx(59.5)


async def test_a_wrong_request_does_not_fail_its_batch(make_house: Any, query: Vector) -> None:
    house = make_house()
    good, bad, also_good = await house.router.search([ask(query), ask(query, k=0), ask(query, k=3)])
    assert isinstance(bad, InvalidRequest) and bad.where == "k"
    assert len(good.keys) == 10 and len(also_good.keys) == 3
    assert await house.router.search([]) == []


class Tower:
    """An encoder: `bias` is the whole vector; "slow", "refused" and "broken" users make it so."""

    def __init__(self, query: Vector) -> None:
        self.query = query
        self.batches: list[int] = []

    async def encode(self, users: Sequence[Mapping[str, Any]]) -> Vector:
        self.batches.append(len(users))
        for i, user in enumerate(users):
            if "refused" in user:
                raise InvalidRequest("expected an int", f"user[{i}].refused")
            if "down" in user:
                raise EncoderUnavailable("forming")
            if "broken" in user:
                raise RuntimeError("no")
            if "slow" in user:
                await asyncio.sleep(3)
        scale = np.array([user.get("scale", 1) for user in users], dtype=np.float32)
        return scale[:, None, None] * self.query[None, None, :]


async def test_users_are_encoded_once_a_batch(make_house: Any, query: Vector) -> None:
    tower = Tower(query)
    house = make_house(encoder=tower)
    requests = [SearchRequest(user={"scale": s}, k=3) for s in (1, -1, 2)] + [ask(query, k=4)]
    outcomes = await house.router.search(requests)
    assert tower.batches == [3]
    for scale, reply in zip((1, -1, 2), outcomes, strict=False):
        np.testing.assert_array_equal(reply.keys, house.best(query * scale, 3).keys)
    assert len(outcomes[3].keys) == 4


async def test_one_wrong_user_fails_alone(make_house: Any, query: Vector) -> None:
    house = make_house(encoder=Tower(query))
    users: list[dict[str, int]] = [{"scale": 1}, {"refused": 1}, {"scale": 1}]
    one, wrong, other = await house.router.search([SearchRequest(user=user) for user in users])
    assert isinstance(wrong, InvalidRequest) and wrong.where == "user.refused"
    np.testing.assert_array_equal(one.keys, other.keys)


async def test_users_are_checked_and_trimmed_by_the_signature(make_house: Any, query: Vector) -> None:
    features = UserFeatures("seen", HistoryFeature("int", required=False), {"scale": BucketFeature((0.0,), True)})
    tower = Tower(query)
    house = make_house(encoder=tower, features=features)
    users: list[dict[str, Any]] = [
        {"scale": 1, "mood": "calm", "slow": 1, "down": 1},
        {"scale": "1"},
        {"seen": [1]},
        {"scale": 2, "seen": ["a"], "slow": 1},
        {"scale": 1, "slow": 1},
    ]
    one, text, missing, history, other = await house.router.search([SearchRequest(user=user) for user in users])
    assert tower.batches == [2]
    np.testing.assert_array_equal(one.keys, other.keys)
    for wrong, where, message in (
        (text, "user.scale", "scale: expected a number, got a string"),
        (missing, "user.scale", "required feature 'scale' is missing"),
        (history, "user.seen", "seen: expected an array of int item ids, got a string at place 0"),
    ):
        assert isinstance(wrong, InvalidRequest)
        assert (wrong.where, wrong.message) == (where, message)
    assert house.router.to_document()["trimmed_features"] == {"slow": 2, "down": 1}
    reply = await house.client.post("/v1/search", json={"queries": [{"user": {"scale": 1}}, {"user": {"scale": None}}]})
    assert (reply.status_code, reply.json()["error"]["where"]) == (422, "queries[1].user.scale")


async def test_the_encoder_fails_and_vectors_go_on(make_house: Any, query: Vector) -> None:
    house = make_house(encoder=Tower(query))
    for user in ({"down": 1}, {"broken": 1}, {"scale": float("nan")}):
        encoded, plain = await house.router.search([SearchRequest(user=user), ask(query)])
        assert isinstance(encoded, EncoderUnavailable), user
        assert isinstance(plain, SearchReply)


async def test_a_client_is_told_when_to_ask_again(make_house: Any, query: Vector) -> None:
    house = make_house(encoder=Tower(query))
    refused = await house.client.post("/v1/search", json={"user": {"down": 1}})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert refused.json()["error"] == {"code": "encoder_unavailable", "message": "forming", "where": None}
    late = await house.client.post("/v1/search", json={"user": {"slow": 1}, "deadline_ms": 100})
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert "retry-after" not in late.headers


async def test_no_vector_in_time(make_house: Any, query: Vector) -> None:
    house = make_house(encoder=Tower(query))
    began = time.monotonic()
    slow = asyncio.create_task(failure(house, SearchRequest(user={"slow": 1}, timeout_s=0.15)))
    await answer(house, ask(query, timeout_s=0.15))
    error = await slow
    assert time.monotonic() - began < 0.6
    assert isinstance(error, DeadlineExceeded) and "vector" in error.message


async def test_users_without_a_tower(make_house: Any) -> None:
    error = await failure(make_house(), SearchRequest(user={"age": 3}))
    assert isinstance(error, InvalidRequest) and error.where == "user" and "send vectors" in error.message


async def test_routers_nest(make_house: Any, query: Vector) -> None:
    from silverray.router.batch.fanout import Backend
    from silverray.router.router import Router

    inner, far = make_house(), make_house().shards[:1]
    inner.shards[0].does = "raise"
    backends = [Backend("inner", inner.router, 400), Backend("far", far[0], 100)]
    outer = Router(inner.router.catalog, backends, validator=inner.router._validator)
    (reply,) = await outer.search([ask(query)])
    assert isinstance(reply, SearchReply)
    assert (reply.coverage.shards, reply.coverage.answered) == (5, 4)
    assert reply.coverage.items_fraction == 0.8
    await outer.close()


async def test_it_counts_and_measures(make_house: Any, query: Vector) -> None:
    house = make_house()
    await house.router.search([ask(query)] * 3)
    house.shards[0].does = "hang"
    await house.router.search([ask(query, timeout_s=0.05)])
    await house.router.search([ask(query, k=0)])
    counted = house.router.to_document()
    assert (counted["requests"], counted["replies"], counted["degraded"]) == (5, 4, 1)
    assert counted["errors"] == {"invalid_request": 1}
    assert counted["batches"] == {"count": 2, "mean_size": 2.0, "max_size": 3}
    assert counted["latency_ms"]["count"] == 3 and counted["latency_ms"]["max"] >= 50
    assert counted["lateness_ms"]["p50"] == 0 and counted["lateness_ms"]["max"] < 1_000
    assert [backend["heard"] for backend in counted["backends"]] == [True] * 4
