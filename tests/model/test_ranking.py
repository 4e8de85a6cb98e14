"""The ranking stage in a shard: what it predicts, how it values, and what replies and explanations say."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from catalogs import DIMENSION, make_requests, write_set_wise, write_tasks
from queries import ordered
from typer.testing import CliRunner

from silverray.cluster.cli import app
from silverray.kernels.programs import Opcode, instruction
from silverray.shard.api import FormulaError, InvalidRequest, SearchError, SearchReply, SearchRequest, SnapshotError
from silverray.shard.index import planner
from silverray.shard.index.ladder import candidates_for
from silverray.shard.local import LocalSearcher
from silverray.shard.model.item_features import ItemFeatures
from silverray.shard.model.ranking import Scoring
from silverray.shard.model.scorer_files import make_scorer, save_overarch
from silverray.shard.model.scorers import SelfAttention
from silverray.shard.searcher import ExactSearch, ShardSearcher
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.value.settings import ValueSettings

EPSILON = 1e-6
TASKS = ("click", "like")
VALUE = ValueSettings.model_validate(
    {
        "default": "click + 2 * like",
        "variants": {
            "fresh": "if(year >= 2000, 2, 1) * click",
            "mine": "click * (country == user.country) + context.hour",
        },
        "user": {"country": {"type": "category"}},
        "context": {"hour": {"type": "int"}},
    }
)


def outcomes(searcher: ShardSearcher, requests: Sequence[SearchRequest]) -> list[SearchReply | SearchError]:
    return asyncio.run(searcher.search(requests))


def ask(searcher: ShardSearcher, requests: Sequence[SearchRequest]) -> list[SearchReply]:
    replies = outcomes(searcher, requests)
    for reply in replies:
        assert isinstance(reply, SearchReply), reply
    return [reply for reply in replies if isinstance(reply, SearchReply)]


def every(count: int, seed: int, **options: Any) -> list[SearchRequest]:
    """Requests of which every matching item is a candidate."""
    return make_requests(count, seed, tasks=2, refine="all", n_probe=64, **options)


def predictions(reply: SearchReply) -> np.ndarray:
    assert reply.tasks is not None
    return reply.tasks.predictions


def test_without_a_formula_an_item_is_worth_the_mean_of_its_tasks_scores(two_tasks: Catalog) -> None:
    lists = ShardSearcher.open(two_tasks.path).engine.model.lists
    vectors, keys = lists.vectors.double().numpy(), lists.keys.numpy()
    requests = [replace(request, filter=None) for request in every(8, seed=1)]
    for request, reply in zip(requests, ask(ShardSearcher.open(two_tasks.path), requests), strict=True):
        scores = vectors @ request.vectors.T.astype(np.float64)  # type: ignore[union-attr]
        order = np.lexsort((keys, -scores.mean(axis=1)))[: request.k]
        np.testing.assert_allclose(reply.scores, scores[order].mean(axis=1), rtol=1e-5, atol=1e-5)
        assert (reply.keys == keys[order]).mean() > 0.95
        slots = {key: slot for slot, key in enumerate(keys)}
        own = scores[[slots[key] for key in reply.keys]]
        np.testing.assert_allclose(predictions(reply), own, rtol=1e-5, atol=1e-5)
        assert reply.tasks is not None
        assert reply.tasks.names == TASKS
        np.testing.assert_array_equal(reply.tasks.found, predictions(reply))  # all tasks found all items


def test_one_task_without_scorer_or_formula_is_not_ranked(catalog: Catalog) -> None:
    searcher = ShardSearcher.open(catalog.path)
    assert searcher.engine.model.ranks is False
    assert all(reply.tasks is None for reply in ask(searcher, make_requests(3, seed=1)))


@pytest.mark.parametrize("shards", [2, 8])
@pytest.mark.parametrize("variant", [None, "fresh", "mine"])
def test_predictions_and_values_depend_on_neither_shards_nor_batch(
    scored: Catalog, shards: int, variant: str | None
) -> None:
    requests = every(24, seed=2, variant=variant, context={"hour": 3, "user.country": "US"})
    whole = ask(ShardSearcher.open(scored.path, value=VALUE), requests)
    parts = [ShardSearcher.open(scored.path, range(n, 8, shards), value=VALUE) for n in range(shards)]
    told: list[dict[int, tuple[float, Any]]] = [{} for _ in requests]
    for part in parts:
        for request, of_all in zip(requests, told, strict=True):
            (reply,) = ask(part, [request])
            of_all |= {k: (s, p) for k, s, p in zip(reply.keys.tolist(), reply.scores, predictions(reply), strict=True)}
    for reply, of_all in zip(whole, told, strict=True):
        best = sorted(of_all, key=lambda key: (-of_all[key][0], key))[: len(reply.keys)]
        np.testing.assert_allclose([of_all[key][0] for key in best], reply.scores, rtol=EPSILON, atol=EPSILON)
        for key, score, own in zip(reply.keys.tolist(), reply.scores, predictions(reply), strict=True):
            assert abs(of_all[key][0] - score) <= EPSILON * max(1, abs(score))
            np.testing.assert_allclose(of_all[key][1], own, rtol=EPSILON, atol=EPSILON)


def test_all_candidates_ranked_is_brute_force(scored: Catalog) -> None:
    for variant in (None, "fresh"):
        requests = every(16, seed=3, variant=variant, ks=(1, 50, 5_000))
        searchers = (kind.open(scored.path, value=VALUE) for kind in (ShardSearcher, ExactSearch))
        for reply, truth in zip(*(ask(searcher, requests) for searcher in searchers), strict=True):
            np.testing.assert_allclose(reply.scores, truth.scores, rtol=EPSILON, atol=EPSILON)
            assert (reply.keys == truth.keys).mean() > 0.99 if len(reply.keys) else len(truth.keys) == 0


def test_fewer_candidates_can_only_lack_items(two_tasks: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "SURVIVORS", 100)
    requests = [replace(request, filter=None) for request in make_requests(32, 4, ks=(10,), tasks=2, explain=True)]
    truths = ask(ExactSearch.open(two_tasks.path), requests)
    hits = 0
    for reply, truth in zip(ask(ShardSearcher.open(two_tasks.path), requests), truths, strict=True):
        known = dict(zip(truth.keys.tolist(), truth.scores.tolist(), strict=True))
        hits += sum(key in known for key in reply.keys.tolist())
        assert all(abs(known.get(k, s) - s) <= 1e-5 for k, s in zip(reply.keys.tolist(), reply.scores, strict=True))
        assert reply.tasks is not None and reply.explain is not None
        assert (reply.tasks.found > -np.inf).any(axis=1).all()
        stages = {stage["stage"]: stage for stage in reply.explain["stages"]}
        assert list(stages) == ["retrieve", "unite", "score", "value", "select"]
        assert stages["retrieve"]["out"] == stages["unite"]["in"] == 2 * candidates_for(10, False)
        assert 250 <= stages["unite"]["out"] == stages["value"]["in"] <= 500
        assert stages["select"]["out"] == 10
        assert all(stage["ms"] >= 0 for stage in stages.values())
    assert hits > 0.8 * 320


def test_a_variant_values_by_its_own_formula(scored: Catalog) -> None:
    searcher = ShardSearcher.open(scored.path, value=VALUE)
    base = replace(every(1, seed=5)[0], filter=None, k=50)
    context = {"hour": 3, "user.country": "US", "unknown": "ignored"}
    plain, fresh, mine = ask(
        searcher, [base, replace(base, variant="fresh"), replace(base, variant="mine", context=context)]
    )
    np.testing.assert_allclose(plain.scores, predictions(plain) @ [1, 2], rtol=1e-5)
    table = {
        int(key): column
        for key, *column in zip(
            searcher.engine.model.lists.keys.tolist(),
            *(searcher.engine.payload.fields(["year", "country"], np.arange(3_000))[n] for n in ("year", "country")),
            strict=True,
        )
    }
    factors = [2 if (table[key][0] or 0) >= 2000 else 1 for key in fresh.keys.tolist()]
    np.testing.assert_allclose(fresh.scores, predictions(fresh)[:, 0] * factors, rtol=1e-5)
    home = [table[key][1] == "US" for key in mine.keys.tolist()]
    np.testing.assert_allclose(mine.scores, predictions(mine)[:, 0] * home + 3, rtol=1e-5)


def test_a_batch_of_many_variants_is_answered_as_each_alone(scored: Catalog) -> None:
    searcher = ShardSearcher.open(scored.path, value=VALUE)
    requests = [
        replace(request, variant=(None, "fresh", "mine")[row % 3], context={"hour": row, "user.country": "DE"})
        for row, request in enumerate(make_requests(30, 6, tasks=2))
    ]
    for request, reply in zip(requests, ask(searcher, requests), strict=True):
        (alone,) = ask(searcher, [request])
        np.testing.assert_allclose(reply.scores, alone.scores, rtol=EPSILON, atol=EPSILON)


@pytest.mark.parametrize(
    ("asked", "where", "message"),
    [
        ({"variant": "nosuch"}, "variant", "no variant 'nosuch'; there are: default, fresh, mine"),
        ({"variant": "mine", "context": {"user.country": "US"}}, "context.hour", "hour: expected a value, got none"),
        ({"variant": "mine", "context": {"hour": "3", "user.country": "US"}}, "context.hour", "expected an integer"),
        ({"variant": "mine", "context": {"hour": 3, "user.country": 7}}, "user.country", "expected a string, got 7"),
    ],
)
def test_what_a_formula_cannot_read_is_refused(
    scored: Catalog, asked: dict[str, Any], where: str, message: str
) -> None:
    searcher = ShardSearcher.open(scored.path, value=VALUE)
    good = every(1, seed=7)[0]
    refused, answered = outcomes(searcher, [replace(good, **asked), good])
    assert isinstance(refused, InvalidRequest)
    assert (refused.where, message in refused.message) == (where, True), refused
    assert isinstance(answered, SearchReply)


def test_a_variant_without_formulas_is_refused(two_tasks: Catalog) -> None:
    (refused,) = outcomes(ShardSearcher.open(two_tasks.path), [replace(every(1, seed=7)[0], variant="a")])
    assert isinstance(refused, InvalidRequest)
    assert str(refused) == "variant: no variant 'a'; there are no formulas"


@pytest.mark.parametrize(
    ("value", "where", "position"),
    [
        ({"default": "click + 2 * likes"}, "default", 12),
        ({"default": "click", "variants": {"b": "click +"}}, "variants.b", 7),
        ({"default": "click * (country > 3)"}, "default", 17),
    ],
)
def test_a_wrong_formula_is_refused_with_its_place(
    two_tasks: Catalog, value: dict[str, Any], where: str, position: int
) -> None:
    with pytest.raises(FormulaError) as raised:
        ShardSearcher.open(two_tasks.path, value=ValueSettings.model_validate(value))
    assert (raised.value.where, raised.value.position) == (where, position)


def test_embedded_search_takes_a_vector_for_each_task(scored: Catalog) -> None:
    local, shard = LocalSearcher.open(scored.path, value=VALUE), ShardSearcher.open(scored.path, value=VALUE)
    requests = [replace(request, filter=None, k=20) for request in make_requests(5, seed=8, tasks=2)]
    found = local.search_batch(np.stack([request.vectors for request in requests]), k=20)  # type: ignore[misc]
    for row, reply in enumerate(ask(shard, requests)):
        np.testing.assert_array_equal(found.ids[row], reply.keys)
        np.testing.assert_array_equal(found.scores[row], reply.scores)
    with pytest.raises(InvalidRequest, match=r"queries: expected \[B, 2, 16\], got \[5, 16\]"):
        local.search_batch(np.ones((5, DIMENSION), np.float32))
    bad = np.ones((5, 2, DIMENSION), np.float32)
    bad[3, 1, 0] = np.nan
    with pytest.raises(InvalidRequest, match=r"queries\[3\].vectors: holds NaN"):
        local.search_batch(bad)


def test_an_exported_model_ranks_like_its_shard(scored: Catalog, tmp_path: Path) -> None:
    file = tmp_path / "model.pt2"
    done = CliRunner().invoke(app, ["export", str(scored.path), "--out", str(file), "-k", "7", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["output_names"][-1] == "predictions"
    requests = [replace(request, filter=None, k=7) for request in make_requests(5, 9, tasks=2)]
    queries = torch.from_numpy(np.stack([request.vectors for request in requests]))  # type: ignore[misc]
    programs = torch.tensor([[instruction(Opcode.LOAD)]], dtype=torch.int32)
    keys, scores, _, overflow, told = torch.export.load(file).module()(
        queries, programs, torch.zeros(5, dtype=torch.int64)
    )
    assert not overflow.any()
    for row, reply in enumerate(ask(ShardSearcher.open(scored.path), requests)):
        assert keys[row].tolist() == reply.keys.tolist()
        np.testing.assert_allclose(scores[row], reply.scores, rtol=EPSILON, atol=EPSILON)
        np.testing.assert_allclose(told[row], predictions(reply), rtol=EPSILON, atol=EPSILON)


def test_a_damaged_scorer_is_refused_by_name(publish_items: Callable[..., Catalog], tmp_path: Path) -> None:
    folder = write_tasks(tmp_path / "model", TASKS)
    save_overarch(folder, "mlp", {"hidden": 16}, make_scorer("mlp", 2, DIMENSION, 0, {"hidden": 8}), ItemFeatures())
    damaged = publish_items(50, model=folder)
    with pytest.raises(SnapshotError, match=r"module_info.json: no usable scorer: heads: expected"):
        ShardSearcher.open(damaged.path)


def test_a_set_wise_scorer_cannot_run_on_a_shard(two_tasks: Catalog) -> None:
    lists = ShardSearcher.open(two_tasks.path).engine.model.lists
    with pytest.raises(ValueError, match="scorer: expected a pointwise one, got SelfAttention"):
        Scoring(lists, SelfAttention(2, DIMENSION, 0), ItemFeatures())


@pytest.mark.parametrize("write", [write_tasks, write_set_wise])
@pytest.mark.parametrize("open_shard", [ShardSearcher.open, ExactSearch.open])
def test_a_shard_without_items_answers_that_it_has_none(
    publish_items: Callable[..., Catalog], tmp_path: Path, write: Any, open_shard: Any
) -> None:
    three = publish_items(3, clusters=2, model=write(tmp_path, TASKS))
    (request,) = make_requests(1, seed=40, ks=(5,), tasks=2)
    request = replace(request, filter=None, fields=("title",), explain=True, context={"hour": 3, "user.country": "US"})
    asked = [
        request,
        replace(request, variant="fresh"),
        replace(request, variant="mine"),
        replace(request, keys=np.arange(9), variant="mine"),
    ]
    held = [three.items_in((partition,)) for partition in range(three.partitions)]
    assert 0 in held and sum(held) == 3
    for partition, items in enumerate(held):
        searcher = open_shard(three.path, (partition,), value=VALUE)
        with_orders = asyncio.run(ordered(searcher, asked, quotas=(1, 2), features=("country",)))
        for reply in [*ask(searcher, asked), *with_orders]:
            assert len(reply.keys) == len(reply.fields["title"]) == items
            assert predictions(reply).shape == (items, 2)


def test_brute_force_ranks_nothing_where_nothing_matches(two_tasks: Catalog) -> None:
    requests = every(2, seed=41)
    none, some = replace(requests[0], filter="rank < 0"), replace(requests[1], filter=None)
    truth = ask(ExactSearch.open(two_tasks.path), [none, some])
    assert [len(reply.keys) for reply in truth] == [0, some.k]
    assert predictions(truth[0]).shape == (0, 2)


def test_the_number_of_candidates_goes_in_steps() -> None:
    ks = (1, 62, 63, 100, 125, 126, 1_000, 10_000)
    assert [candidates_for(k, False) for k in ks] == [250, 250, 500, 500, 500, 1_000, 4_000, 10_000]
    assert candidates_for(1, True) == 10_000
