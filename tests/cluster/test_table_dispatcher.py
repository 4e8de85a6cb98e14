"""The dispatcher of a table group, over a group that is played."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tables import TABLES, make_batch

from silverray.cluster.tables import dispatcher
from silverray.cluster.tables.dispatcher import GroupTables
from silverray.cluster.tables.group import GroupFailed, TableGroup
from silverray.cluster.tables.plan import RankBudget, TablePlan, plan_tables
from silverray.cluster.tables.slices import FeatureSlice
from silverray.shard.api import EncoderUnavailable, Overloaded
from silverray.shard.towers.tables import keyed_jagged

AGES = TABLES[3:]
PLAN = plan_tables(AGES, 2, RankBudget(1_000_000))


class PlayedGroup:
    """Answers each request with its number of ids; fails, hangs or dies as it is told."""

    def __init__(self) -> None:
        self.calls = 0
        self.open = 0
        self.most_open = 0
        self.probes = 0
        self.killed = False
        self.hold = asyncio.Event()
        self.hold.set()
        self.failure: Exception | None = None

    async def look_up(self, slices: Sequence[FeatureSlice]) -> NDArray[np.float32]:
        self.calls += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        await self.hold.wait()
        self.open -= 1
        if self.failure:
            raise self.failure
        return np.concatenate([one.lengths[0] for one in slices])[:, None].astype(np.float32)

    async def probe(self) -> None:
        self.probes += 1
        if self.failure:
            raise self.failure

    def kill(self) -> None:
        self.killed = True


class Forming:
    """Stands for `TableGroup.form`: hands out played groups, or raises what it is told to."""

    def __init__(self) -> None:
        self.groups: list[PlayedGroup] = []
        self.errors: list[Exception] = []
        self.may = asyncio.Event()
        self.may.set()

    async def form(self, plan: TablePlan, folder: Path, cpus: float) -> PlayedGroup:
        await self.may.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.groups.append(PlayedGroup())
        return self.groups[-1]


def play(test: Callable[[GroupTables, Forming], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        forming = Forming()
        monkeypatch.setattr(TableGroup, "form", forming.form)
        monkeypatch.setattr(dispatcher, "_FIRST_PAUSE_S", 0.01)
        tables = await GroupTables.form(PLAN, Path(), 0.1)
        try:
            async with asyncio.timeout(20):
                await test(tables, forming)
        finally:
            await tables.close()
        assert all(group.killed for group in forming.groups)

    asyncio.run(run())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.002)


def lengths(requests: int, seed: int) -> torch.Tensor:
    found: torch.Tensor = make_batch(requests, seed)["age"].lengths()[:, None].float()
    return found


def test_batches_are_asked_one_at_a_time_and_keep_their_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(tables: GroupTables, forming: Forming) -> None:
        sizes = [1, 2, 3, 5, 8, 13]
        found = await asyncio.gather(*(tables.look_up(make_batch(size, size)) for size in sizes))
        for size, one in zip(sizes, found, strict=True):
            assert torch.equal(one, lengths(size, size))
        assert forming.groups[0].calls == len(sizes)
        assert forming.groups[0].most_open == 1
        assert tables.describe() == {"ready": True, "failures": 0, **PLAN.describe()}

    play(test, monkeypatch)


def test_after_a_failure_look_ups_are_refused_until_the_group_is_formed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(tables: GroupTables, forming: Forming) -> None:
        (group,) = forming.groups
        group.hold.clear()
        group.failure = GroupFailed("rank 1 died")
        forming.may.clear()
        forming.errors = [GroupFailed("no room"), OSError("no port")]
        caught = [asyncio.ensure_future(tables.look_up(make_batch(4, n))) for n in range(3)]
        await until(lambda: group.open)
        group.hold.set()
        for one in await asyncio.gather(*caught, return_exceptions=True):
            assert isinstance(one, EncoderUnavailable)
        assert group.killed and group.calls == 1
        assert tables.describe()["ready"] is False
        with pytest.raises(EncoderUnavailable, match="being loaded again"):
            await tables.look_up(make_batch(4, 0))
        forming.may.set()
        await until(lambda: tables.describe()["ready"])
        assert not forming.errors
        assert torch.equal(await tables.look_up(make_batch(4, 9)), lengths(4, 9))
        assert tables.describe()["failures"] == 1

    play(test, monkeypatch)


def test_a_dead_rank_of_an_idle_group_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "_PROBE_EVERY_S", 0.01)

    async def test(tables: GroupTables, forming: Forming) -> None:
        await until(lambda: forming.groups[0].probes >= 2)
        forming.groups[0].failure = GroupFailed("rank 0 died")
        await until(lambda: len(forming.groups) == 2)
        assert torch.equal(await tables.look_up(make_batch(3, 1)), lengths(3, 1))

    play(test, monkeypatch)


def test_a_batch_that_nobody_waits_for_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(tables: GroupTables, forming: Forming) -> None:
        (group,) = forming.groups
        group.hold.clear()
        first = asyncio.ensure_future(tables.look_up(make_batch(2, 0)))
        await until(lambda: group.open)
        left = asyncio.ensure_future(tables.look_up(make_batch(2, 1)))
        await until(lambda: tables._waiting.qsize() == 1)
        for one in (first, left):
            one.cancel()
        group.hold.set()
        assert torch.equal(await tables.look_up(make_batch(5, 2)), lengths(5, 2))
        assert group.calls == 2

    play(test, monkeypatch)


def test_too_many_batches_are_refused_and_closing_refuses_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(tables: GroupTables, forming: Forming) -> None:
        forming.groups[0].hold.clear()
        asked = [asyncio.ensure_future(tables.look_up(make_batch(1, 0)))]
        await until(lambda: forming.groups[0].calls == 1)
        asked += [asyncio.ensure_future(tables.look_up(make_batch(1, 0))) for _ in range(69)]
        await until(lambda: sum(one.done() for one in asked) == 5)  # 64 wait and one is asked
        for one in asked:
            if one.done():
                assert isinstance(one.exception(), Overloaded)
        await tables.close()
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(outcome, EncoderUnavailable | Overloaded)

    play(test, monkeypatch)


def test_wrong_ids_never_reach_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(tables: GroupTables, forming: Forming) -> None:
        with pytest.raises(ValueError, match="age: expected rows 0 to 6 of table 'age', got 7"):
            await tables.look_up(keyed_jagged({"age": (torch.tensor([3, 7]), torch.tensor([1, 1]))}))
        assert forming.groups[0].calls == 0

    play(test, monkeypatch)
