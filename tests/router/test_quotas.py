"""Quotas: what every task predicts best has its places, however the catalog is cut."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from catalogs import make_requests
from queries import ordered

from silverray.router.batch.fanout import Backend
from silverray.router.router import Router
from silverray.router.settings import RouterSettings
from silverray.shard.api import SearchReply, SearchRequest, TaskScores
from silverray.shard.engine.validation import Validator
from silverray.shard.limits import filled
from silverray.shard.searcher import ExactSearch, ShardSearcher
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.value.settings import ValueSettings
from silverray.shard.value.valuer import Valuer

CLICKS = ValueSettings(default="click")
QUOTAS = {"like": 4, "click": 2}


def make_reply(values: Sequence[float], predictions: Sequence[Sequence[float]]) -> SearchReply:
    keys = np.arange(len(values))
    table = np.array(predictions, dtype=np.float32)
    return SearchReply(
        ids=keys,
        keys=keys,
        scores=np.array(values, dtype=np.float32),
        version="v1",
        tasks=TaskScores(("a", "b"), table, table),
    )


def test_a_quota_keeps_places_for_the_best_predictions_of_a_task() -> None:
    reply = make_reply([5, 4, 3, 2, 1, 0], [[5, 0], [4, 1], [3, 0], [2, 7], [1, 9], [0, 8]])
    assert filled(reply, 3, (0, 0)).keys.tolist() == [0, 1, 2]
    assert filled(reply, 3, (0, 1)).keys.tolist() == [0, 1, 4]
    assert filled(reply, 3, (0, 2)).keys.tolist() == [0, 4, 5]
    assert filled(reply, 3, (1, 1)).keys.tolist() == [0, 1, 4]
    kept = filled(reply, 3, (0, 2))
    assert kept.scores.tolist() == [5, 1, 0]
    assert kept.tasks is not None and kept.tasks.predictions.tolist() == [[5, 0], [1, 9], [0, 8]]


def test_tasks_take_turns_where_quotas_ask_for_more_than_there_is() -> None:
    reply = make_reply([5, 4, 3, 2], [[0, 1], [0, 2], [8, 0], [9, 0]])
    assert filled(reply, 3, (2, 2)).keys.tolist() == [1, 2, 3]
    assert filled(reply, 10, (3, 1)).keys.tolist() == [0, 1, 2, 3]
    assert filled(reply, 1, (3, 3)).keys.tolist() == [3]


def route(catalog: Catalog, shards: int, settings: RouterSettings) -> Router:
    parts = [tuple(range(n, catalog.partitions, shards)) for n in range(shards)]
    backends = [
        Backend(f"s{n}", ShardSearcher.open(catalog.path, part, value=CLICKS), catalog.items_in(part), part)
        for n, part in enumerate(parts)
    ]
    return Router(
        catalog,
        backends,
        settings=settings,
        validator=Validator(catalog, Valuer(CLICKS, catalog.tasks, catalog.schema)),
    )


def ask(searcher: Router | ShardSearcher, requests: Sequence[SearchRequest]) -> list[SearchReply]:
    replies = asyncio.run(searcher.search(requests))
    assert all(isinstance(reply, SearchReply) for reply in replies), replies
    return replies  # type: ignore[return-value]


def test_quotas_hold_on_any_number_of_shards_and_in_nested_routers(two_tasks: Catalog) -> None:
    asked = make_requests(30, 5, ks=(1, 10, 50), tasks=2, refine="all", n_probe=64, timeout_s=60.0)
    everything = [replace(request, k=3_000) for request in asked]
    exact = ExactSearch.open(two_tasks.path, value=CLICKS)
    # Of everything that matches, the quotas' choice; tasks in the model's order.
    truths = [filled(reply, request.k, (2, 4)) for request, reply in zip(asked, ask(exact, everything), strict=True)]
    settings = RouterSettings(deadline_s=50.0, quotas=QUOTAS)
    inner = route(two_tasks, 4, settings)
    nested = Router(
        two_tasks, [Backend("inner", inner, two_tasks.items)], settings=settings, validator=inner._validator
    )
    for router in (route(two_tasks, 1, settings), route(two_tasks, 4, settings), nested):
        for truth, reply in zip(truths, ask(router, asked), strict=True):
            np.testing.assert_allclose(reply.scores, truth.scores, rtol=1e-6, atol=1e-6)
            assert reply.keys.tolist() == truth.keys.tolist()
    plain = ask(route(two_tasks, 4, RouterSettings(deadline_s=50.0)), asked)
    changed = [reply.keys.tolist() != truth.keys.tolist() for reply, truth in zip(plain, truths, strict=True)]
    assert sum(changed) > 10


def test_brute_force_sends_what_quotas_need(two_tasks: Catalog) -> None:
    requests = make_requests(10, 6, tasks=2, refine="all", n_probe=64)
    searchers = [kind.open(two_tasks.path, value=CLICKS) for kind in (ShardSearcher, ExactSearch)]
    replies, truths = (asyncio.run(ordered(searcher, requests, quotas=(2, 4))) for searcher in searchers)
    for reply, truth in zip(replies, truths, strict=True):
        assert reply.keys.tolist() == truth.keys.tolist()


@pytest.mark.parametrize(
    ("quotas", "message"),
    [({"share": 1}, "quotas.share: expected one of the tasks click, like")],
)
def test_quotas_must_name_tasks(two_tasks: Catalog, quotas: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        route(two_tasks, 1, RouterSettings(quotas=quotas))


def test_a_model_with_one_task_has_no_quotas(catalog: Catalog) -> None:
    with pytest.raises(ValueError, match=r"quotas.default: expected none for a model with one task"):
        Router(
            catalog, [Backend("s", ShardSearcher.open(catalog.path), 1)], settings=RouterSettings(quotas={"default": 1})
        )
