"""The model of a shard: one module, of which serving runs the same parts, and what its stages say of themselves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from catalogs import DIMENSION
from torch import Tensor

from silverray.kernels.programs import Opcode, instruction
from silverray.shard.engine import runner
from silverray.shard.engine.engine import Engine
from silverray.shard.engine.runner import Best
from silverray.shard.filter.compiler import Plan
from silverray.shard.index import planner
from silverray.shard.model import ranking
from silverray.shard.model.retrieval import Found
from silverray.shard.model.shard_model import Result
from silverray.shard.model.stage_times import StageTimes
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.value.settings import ValueSettings
from silverray.shard.value.valuer import FormulaInputs

EVERYTHING, HALF = (instruction(Opcode.LOAD),), (instruction(Opcode.LOAD), instruction(Opcode.AND, 3))
PROGRAMS = torch.tensor([[*EVERYTHING, 0], HALF], dtype=torch.int32)
PLANS = [Plan(np.array(codes, dtype=np.int32), None) for codes in (EVERYTHING, HALF)]
VALUE = ValueSettings.model_validate(
    {
        "default": "click + 2 * like",
        "variants": {"mine": "click * if(year >= 2000, 2, 1) + context.hour"},
        "context": {"hour": {"type": "int"}},
    }
)
ASKED = [FormulaInputs(), FormulaInputs("mine", {"hour": 3})]


@pytest.fixture(params=["catalog", "two_tasks", "scored"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """3,000 items, of which a filter that passes more than 1,000 is probed; formulas where there is a scorer."""
    monkeypatch.setattr(planner, "SURVIVORS", 1_000)
    snapshot: Catalog = request.getfixturevalue(request.param)
    value = VALUE if request.param == "scored" else ValueSettings()
    return Engine.open(snapshot.path, value=value)


def users(engine: Engine, count: int) -> Tensor:
    return torch.randn(count, engine.model.tasks, DIMENSION, generator=torch.Generator().manual_seed(count))


def asked(engine: Engine, count: int) -> list[FormulaInputs]:
    return [ASKED[row % 2] if engine.valuer.models else FormulaInputs() for row in range(count)]


def run(engine: Engine, count: int, k: int, model: Any = None, **options: Any) -> Result:
    """The model itself."""
    filters = torch.arange(count) % 2
    valuations = engine.valuer.valuations(asked(engine, count), filters.device)
    wanted = torch.full_like(filters, k)
    with torch.inference_mode():
        found = (engine.model if model is None else model)(
            users(engine, count), PROGRAMS, filters, wanted, k, valuations=valuations, **options
        )
    assert isinstance(found, Result)
    return found


def serve(engine: Engine, count: int, k: int, quotas: Sequence[int] = ()) -> Best:
    """What is served."""
    queries = users(engine, count).flatten(0, 1).numpy()
    plans = [PLANS[row % 2] for row in range(count)]
    return engine.best(queries, plans, [k] * count, asked=asked(engine, count), quotas=quotas)


def assert_same(best: Best, expected: Result) -> None:
    """Bit for bit."""
    assert torch.equal(best.slots, expected.slots)
    assert torch.equal(best.scores, expected.scores)
    if best.ranked is not None:
        there = best.slots >= 0
        assert torch.equal(best.ranked.predictions[there], expected.predictions[there])
        assert torch.equal(best.ranked.found[there], expected.found[there])


@pytest.mark.parametrize("count", [1, 7])
def test_what_is_served_is_the_model(engine: Engine, count: int) -> None:
    quotas = (3, 0) if engine.model.tasks > 1 else ()
    expected = run(engine, count, 10, quotas=quotas)
    assert_same(serve(engine, count, 10, quotas), expected)
    there = expected.slots >= 0
    assert there[:, :10].all()  # quotas keep places for items of their own only
    assert torch.equal(expected.keys[there], engine.model.lists.keys[expected.slots[there]])
    assert (expected.keys[~there] == -1).all()
    assert expected.predictions.shape == (*expected.slots.shape, engine.model.tasks)
    survivors = expected.plan.survivors.view(count, engine.model.tasks)
    assert survivors.any(dim=1).tolist() == [row % 2 == 1 for row in range(count)]
    assert not expected.overflow.any()


def test_without_ranking_predictions_are_the_scores(catalog: Catalog) -> None:
    found = run(Engine.open(catalog.path), 4, 10)
    assert torch.equal(found.predictions[:, :, 0], found.scores)
    assert torch.equal(found.found, found.predictions)


def test_parts_of_a_batch_and_of_its_candidates_change_no_bit(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = serve(engine, 7, 10)
    whole = run(engine, 7, 10)
    monkeypatch.setattr(runner, "PLACES", 1_000)  # two requests of two lists of 250 at a time
    monkeypatch.setattr(ranking, "SCORED", 50)
    best = serve(engine, 7, 10)
    assert_same(best, whole)
    for mine, theirs in zip(best.stages, expected.stages, strict=True):
        assert mine.name == theirs.name
        assert mine.left.tolist() == theirs.left.tolist()


def test_the_model_compiles_without_a_break(engine: Engine) -> None:
    torch.compiler.reset()
    compiled = torch.compile(engine.model, fullgraph=True, backend="aot_eager")
    found, expected = run(engine, 5, 10, compiled), run(engine, 5, 10)
    assert torch.equal(found.slots, expected.slots)
    torch.testing.assert_close(found.scores, expected.scores)


def test_a_request_lacks_items_where_a_task_had_no_room(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = engine.model.retrieval.forward

    def cramped(*given: Any) -> Found:
        found = forward(*given)
        return found._replace(overflow=torch.arange(len(found.slots)) == 2)

    monkeypatch.setattr(engine.model.retrieval, "forward", cramped)
    assert run(engine, 4, 10).overflow.tolist() == [row == 2 // engine.model.tasks for row in range(4)]


def test_stages_are_told_in_their_order_with_what_they_left(engine: Engine) -> None:
    best = serve(engine, 5, 10)
    names = [stage.name for stage in best.stages]
    assert names == (["retrieve", "unite", "score", "value", "select"] if engine.model.ranks else ["retrieve"])
    assert all(stage.left.shape == (5,) for stage in best.stages)
    assert best.stages[-1].left.tolist() == [10] * 5


def test_parts_of_a_batch_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 11.0, 13.0, 16.0, 20.0, 25.0])
    monkeypatch.setattr("silverray.shard.model.stage_times.perf_counter", lambda: next(clock))
    times = StageTimes()
    times("retrieve", torch.tensor([[1, -1], [2, 3]]))
    times.spent("value")
    times("unite", torch.tensor([[7]]))
    times("value", torch.tensor([[7]]))
    times("unite", torch.tensor([[-1]]))
    told = [(stage.name, stage.seconds, stage.left.tolist()) for stage in times.stages]
    assert told == [("retrieve", 1.0, [1, 2]), ("unite", 8.0, [1, 0]), ("value", 6.0, [1])]
