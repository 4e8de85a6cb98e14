"""Long filters are compiled until their deadline, and beside everything else."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from silverray.router.stages.compile import MAX_FILTER_TEXT, FilterCompiler
from silverray.shard.api import DeadlineExceeded, FilterError, InvalidRequest, SearchRequest
from silverray.shard.filter.compiler import CompiledFilter, Plan
from silverray.shard.filter.deadline import Deadline

from .conftest import DIMENSION, Validating

pytestmark = pytest.mark.anyio
VECTORS = np.ones((1, 4), dtype=np.float32)


class SlowFilters:
    """Takes 0.3 s for a filter: long beside a turn of the machine's other work."""

    def __init__(self) -> None:
        self.compiled: list[str] = []

    def find(self, text: str) -> None:
        return None

    def compile(self, text: str, deadline: Deadline) -> CompiledFilter:
        self.compiled.append(text)
        time.sleep(0.3)
        if text.startswith("wrong"):
            raise FilterError("unexpected text", 3, ["a field"], "write a field")
        plan = Plan(np.zeros(1, dtype=np.int32), None)
        return CompiledFilter(text, None, plan, plan)


def ask(*texts: str, allowed_s: float = 5.0) -> tuple[SlowFilters, Any]:
    filters = SlowFilters()
    validator: Any = SimpleNamespace(filters=filters)
    compiler = FilterCompiler(validator)
    requests = [SearchRequest(vectors=VECTORS, filter=text) for text in texts]
    wheres = [f"queries[{place}]" for place in range(len(texts))]
    deadlines = [time.monotonic() + allowed_s] * len(texts)
    return filters, compiler.compile(requests, wheres, deadlines)


async def test_equal_filters_of_a_body_are_compiled_once() -> None:
    filters, asked = ask(*["x" * 1_000] * 20)
    outcomes = await asked
    assert len(filters.compiled) == 1
    assert len({id(outcome) for outcome in outcomes}) == 1
    assert isinstance(outcomes[0], CompiledFilter)


async def test_what_is_not_compiled_in_time_is_late_and_nobody_else_waits() -> None:
    filters, asked = ask(*(f"{place:01000}" for place in range(40)), allowed_s=1.0)
    task, turns = asyncio.create_task(asked), 0
    while not task.done():
        await asyncio.sleep(0.005)
        turns += len(filters.compiled) == 1
    outcomes = await task
    assert turns > 1, "the loop went on beside the first filter"
    assert isinstance(outcomes[0], CompiledFilter)
    late = [outcome for outcome in outcomes if isinstance(outcome, DeadlineExceeded)]
    assert len(late) >= 30
    assert late[-1].where == "queries[39]"
    await asyncio.sleep(0.4)
    assert len(filters.compiled) < 10  # the rest was given up


class EndlessFilters(SlowFilters):
    """Looks at the deadline as the compiler does, and never ends by itself."""

    def compile(self, text: str, deadline: Deadline) -> CompiledFilter:
        self.compiled.append(text)
        while True:
            deadline.check()


async def test_a_filter_is_given_up_within_its_compiling() -> None:
    filters = EndlessFilters()
    validator: Any = SimpleNamespace(filters=filters)
    compiler = FilterCompiler(validator)
    for text in ("x" * 1_000, "y" * 1_000):  # the second finds the thread free
        request = SearchRequest(vectors=VECTORS, filter=text)
        (outcome,) = await compiler.compile([request], ["queries[0]"], [time.monotonic() + 0.1])
        assert isinstance(outcome, DeadlineExceeded)
        assert (outcome.code, outcome.where) == ("deadline_exceeded", "queries[0]")
        assert outcome.message == "the filter was not compiled in time"
    # Nothing is left in the thread: what is put there now ends.
    assert await asyncio.get_running_loop().run_in_executor(compiler._executor, int) == 0


async def test_too_much_text_is_refused_before_any_is_compiled() -> None:
    filters, asked = ask(*(f"{place:016000}" for place in range(256)), allowed_s=0.1)
    outcomes = await asked
    assert all(isinstance(outcome, InvalidRequest) for outcome in outcomes)
    assert f"at most {MAX_FILTER_TEXT:,} characters together" in outcomes[0].message
    assert filters.compiled == []


async def test_a_wrong_filter_says_where_it_stands() -> None:
    _, asked = ask("x" * 1_000, "wrong" + "x" * 1_000)
    good, wrong = await asked
    assert isinstance(good, CompiledFilter)
    assert (wrong.where, wrong.position, wrong.hint) == ("queries[1].filter", 3, "write a field")


async def test_a_canary_is_answered_while_long_filters_are_compiled(
    make_house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    filters = SlowFilters()
    monkeypatch.setattr(Validating, "filters", filters)
    house = make_house()
    query = {"vector": [1.0] * DIMENSION, "k": 3}
    long = [query | {"filter": f"wrong{place:0995}"} for place in range(10)]
    asked = asyncio.create_task(house.client.post("/v1/search", json={"queries": long}))
    times, answers = [], []
    while not asked.done():
        begun = time.monotonic()
        answers.append(await house.client.post("/v1/search", json=query))
        times.append(time.monotonic() - begun)
    assert len(filters.compiled) == 10, "three seconds of compiling"
    assert {answer.status_code for answer in answers} == {200}
    assert len(times) > 10 and sorted(times)[len(times) // 2] < 0.3, "none waits for a filter of others"
    assert (await asked).json()["error"]["code"] == "invalid_filter"


@pytest.mark.parametrize(("length", "inline"), [(256, True), (257, False)])
async def test_only_short_filters_are_compiled_on_the_event_loop(length: int, inline: bool) -> None:
    filters, asked = ask("x" * length)
    (outcome,) = await asked
    assert (filters.compiled == []) == (outcome is None) == inline
