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
from processes import descendants, gone
from tables import SINGLE, TABLES, make_batch
from torchrec import KeyedJaggedTensor

from silverray.cluster.tables.dispatcher import GroupTables
from silverray.cluster.tables.group import GroupFailed, TableGroup
from silverray.cluster.tables.plan import RankBudget, TablePlan, plan_tables
from silverray.shard.api import EncoderUnavailable
from silverray.shard.model.table_files import save_tables
from silverray.shard.model.tables import LocalTables, embedding_tables, keyed_jagged

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

_CPUS = 0.1


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
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
        async with asyncio.timeout(120):
            await test

    asyncio.run(bounded())


def rank_pids() -> list[int]:
    names = {pid: Path(f"/proc/{pid}/cmdline") for pid in descendants(os.getpid())}
    return [pid for pid, name in names.items() if name.exists() and b"TableRank" in name.read_bytes()]


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


@pytest.mark.parametrize(("ranks", "host_bytes"), [(2, 3_200_000), (4, 1_800_000)])
def test_ranks_answer_as_the_unsharded_tables_do(
    cluster: None, folder: Path, local: LocalTables, ranks: int, host_bytes: int
) -> None:
    plan = plan_tables(TABLES, ranks, RankBudget(host_bytes))
    assert max(plan.rank_bytes) <= host_bytes < sum(plan.rank_bytes)
    assert {shard.sharding for shard in plan.shards} == {"row_wise", "column_wise", "table_wise"}

    async def test() -> None:
        tables = await GroupTables.form(plan, folder, _CPUS)
        pids = rank_pids()
        try:
            for requests in (1, 2, 3, 5, 64, 257):
                await assert_same(tables, local, make_batch(requests, seed=requests))
            together = [assert_same(tables, local, make_batch(7, seed)) for seed in range(10)]
            await asyncio.gather(*together)
            empty = {name: (torch.empty(0).long(), torch.zeros(3).long()) for name in make_batch(1, 0).keys()}  # noqa: SIM118
            assert torch.equal(await tables.look_up(keyed_jagged(empty)), torch.zeros(3, 84))
        finally:
            await tables.close()
        assert len(pids) == ranks and gone(set(pids))

    run(test())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank_costs_no_answer_and_is_replaced(
    cluster: None, folder: Path, local: LocalTables, how: signal.Signals
) -> None:
    plan = plan_tables(TABLES, 2, RankBudget(3_200_000))
    batch = make_batch(32, seed=0)
    outcomes: list[bool] = []

    async def ask(tables: GroupTables, want: torch.Tensor, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                found = await asyncio.wait_for(tables.look_up(batch), 6)
            except EncoderUnavailable:
                outcomes.append(False)
                await asyncio.sleep(0.05)
            else:
                outcomes.append(True)
                torch.testing.assert_close(found, want, rtol=0, atol=1e-6)

    async def test() -> None:
        tables, stop = await GroupTables.form(plan, folder, _CPUS), asyncio.Event()
        want = await local.look_up(batch)
        before = rank_pids()
        asking = [asyncio.create_task(ask(tables, want, stop)) for _ in range(4)]
        try:
            await asyncio.sleep(0.5)
            os.kill(before[1], how)
            lost = time.monotonic()
            while tables.describe()["ready"]:
                await asyncio.sleep(0.02)
            noticed = time.monotonic() - lost
            while not tables.describe()["ready"]:
                await asyncio.sleep(0.02)
            took = time.monotonic() - lost
            answered = sum(outcomes)
            await asyncio.sleep(0.5)
            assert sum(outcomes) > answered > 0
            print(f"{how.name}: noticed after {noticed:.2f} s, back after {took:.1f} s, {len(outcomes)} look-ups")
            assert noticed < 6 and took < 30
            assert tables.describe()["failures"] == 1
            assert not set(rank_pids()) & set(before)
        finally:
            stop.set()
            await asyncio.gather(*asking)
            await tables.close()
            for pid in before:
                if Path(f"/proc/{pid}").exists():
                    os.kill(pid, signal.SIGKILL)

    run(test())


def test_a_group_whose_tables_are_missing_is_not_formed(cluster: None, folder: Path, tmp_path: Path) -> None:
    plan: TablePlan = plan_tables(TABLES, 2, RankBudget(3_200_000))
    save_tables(tmp_path, TABLES[1:], embedding_tables(TABLES[1:]))

    async def test() -> None:
        with pytest.raises(GroupFailed, match=r"users.safetensors: no weights of table 'users'"):
            await TableGroup.form(plan, tmp_path, _CPUS)

    run(test())
    assert gone(set(rank_pids()))
