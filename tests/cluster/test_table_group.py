"""Table groups of real ranks: look-ups beside unsharded tables, and a rank that is killed or stopped."""

import asyncio
import os
import signal
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from processes import PATIENCE_S, gone, named
from tables import SINGLE, TABLE_OF, TABLES, make_batch
from torchrec import KeyedJaggedTensor

from silverray.cluster.tables.dispatcher import GroupTables
from silverray.cluster.tables.group import GroupFailed, TableGroup
from silverray.cluster.tables.plan import RankBudget, TablePlan, plan_tables
from silverray.cluster.tables.rank import TIMEOUT_S
from silverray.shard.api import EncoderUnavailable
from silverray.shard.towers.table_files import save_tables
from silverray.shard.towers.tables import LocalTables, embedding_tables, keyed_jagged

pytestmark = pytest.mark.ray

_CPUS = 0.1


FORM_S = 15.0
"""Two ranks form within it on two idle cores."""
NOTICED_S = 2 * TIMEOUT_S
"""A rank that does not answer is noticed within it: its time-out, and as much again for the machine."""


@pytest.fixture(scope="module")
def cluster(address: str) -> Iterator[None]:
    ray.init(address, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def local() -> LocalTables:
    torch.manual_seed(1)
    return LocalTables(TABLES, embedding_tables(TABLES))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, local: LocalTables) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    torch.manual_seed(1)
    save_tables(folder, TABLES, embedding_tables(TABLES))
    return folder


def run(test: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await test

    asyncio.run(bounded())


def rank_pids() -> list[int]:
    return sorted(named("TableRank"))


def columns(found: torch.Tensor) -> dict[str, torch.Tensor]:
    widths = {name: table.dimension for table in TABLES for name in table.features}
    return dict(zip(widths, found.split(list(widths.values()), dim=1), strict=True))


async def assert_same(tables: GroupTables, local: LocalTables, batch: KeyedJaggedTensor) -> None:
    found, want = await tables.look_up(batch), await local.look_up(batch)
    assert found.shape == want.shape and found.dtype == torch.float32
    for (name, got), expected in zip(columns(found).items(), columns(want).values(), strict=True):
        if name in SINGLE:
            assert torch.equal(got, expected), name
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


async def assert_all_the_same(tables: GroupTables, local: LocalTables) -> None:
    for requests in (1, 2, 3, 5, 64, 257):
        await assert_same(tables, local, make_batch(requests, seed=requests))
    await asyncio.gather(*(assert_same(tables, local, make_batch(7, seed)) for seed in range(10)))
    empty = {name: (torch.empty(0).long(), torch.zeros(3).long()) for name in TABLE_OF}
    assert torch.equal(await tables.look_up(keyed_jagged(empty)), torch.zeros(3, 84))


def plan(ranks: int, host_bytes: int) -> TablePlan:
    """A plan with every way to cut a table, for ranks none of which could hold all tables."""
    plan = plan_tables(TABLES, ranks, RankBudget(host_bytes))
    assert max(plan.rank_bytes) <= host_bytes < sum(plan.rank_bytes)
    assert {shard.sharding for shard in plan.shards} == {"row_wise", "column_wise", "table_wise"}
    return plan


def test_four_ranks_answer_as_the_unsharded_tables_do(cluster: None, folder: Path, local: LocalTables) -> None:
    async def test() -> None:
        tables = await GroupTables.form(plan(4, 1_800_000), folder, _CPUS)
        pids = rank_pids()
        try:
            await assert_all_the_same(tables, local)
        finally:
            await tables.close()
        assert len(pids) == 4 and gone(set(pids))

    run(test())


def test_two_ranks_do_too_and_a_lost_one_is_replaced(cluster: None, folder: Path, local: LocalTables) -> None:
    async def test() -> None:
        began = time.monotonic()
        tables = await GroupTables.form(plan(2, 3_200_000), folder, _CPUS)
        slow = max(1.0, (time.monotonic() - began) / FORM_S)
        try:
            await assert_all_the_same(tables, local)
            await lose_a_rank(tables, local, signal.SIGKILL, slow)
            await assert_all_the_same(tables, local)
            await lose_a_rank(tables, local, signal.SIGSTOP, slow)
            await assert_all_the_same(tables, local)
        finally:
            await tables.close()

    run(test())


async def lose_a_rank(tables: GroupTables, local: LocalTables, how: signal.Signals, slow: float) -> None:
    """Kill or stop a rank while four callers ask; every one of their calls must end, and the group must come back.

    `slow` is by how much other work on the machine stretches time.
    """
    batch, stop = make_batch(32, seed=0), asyncio.Event()
    want = await local.look_up(batch)
    outcomes: list[bool] = []

    async def ask() -> None:
        while not stop.is_set():
            try:
                found = await asyncio.wait_for(tables.look_up(batch), NOTICED_S * slow)
            except EncoderUnavailable:
                outcomes.append(False)
                await asyncio.sleep(0.05)
            else:
                outcomes.append(True)
                torch.testing.assert_close(found, want, rtol=0, atol=1e-6)

    before, failures = rank_pids(), tables.describe()["failures"]
    asking = [asyncio.create_task(ask()) for _ in range(4)]
    try:
        await asyncio.sleep(0.5)
        os.kill(before[1], how)
        lost = time.monotonic()
        while tables.describe()["ready"]:
            await asyncio.sleep(0.02)
        noticed, answered = time.monotonic() - lost, sum(outcomes)
        while not tables.describe()["ready"]:
            await asyncio.sleep(0.02)
        took = time.monotonic() - lost
        print(f"{how.name}: noticed after {noticed:.2f} s, back after {took:.1f} s")
        while sum(outcomes) == answered:
            await asyncio.sleep(0.02)
        assert answered and noticed < NOTICED_S * slow and took < 30 * slow
        assert tables.describe()["failures"] == failures + 1
        assert len(rank_pids()) >= 2 and not set(rank_pids()) & (set(before) - {before[1]})
    finally:
        stop.set()
        await asyncio.gather(*asking)
        if how is signal.SIGSTOP and Path(f"/proc/{before[1]}").exists():
            os.kill(before[1], signal.SIGKILL)


def test_a_group_whose_tables_are_missing_is_not_formed(cluster: None, folder: Path, tmp_path: Path) -> None:
    alone = plan_tables(TABLES, 1, RankBudget(10_000_000))
    save_tables(tmp_path, TABLES[1:], embedding_tables(TABLES[1:]))

    async def test() -> None:
        with pytest.raises(GroupFailed, match=r"users.safetensors: no weights of table 'users'"):
            await TableGroup.form(alone, tmp_path, _CPUS)

    run(test())
    assert gone(set(rank_pids()))
