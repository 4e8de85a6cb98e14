"""Look-ups in embedding tables, in one process and in table groups: `silverray bench tables`.

Tables of 200,000 users and 100,000 films x 64; a request has one user and a history of up to 50 films. Groups of 2 and
4 ranks on this machine, each rank with less room than the tables take. All contenders look up the same batches in turn.
Then a rank of each group is killed, and the time is taken until the group answers. Last, what int8 costs in recall.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import torch

from silverray.benchmarks.common.measure import interleave
from silverray.benchmarks.common.processes import own_actors
from silverray.benchmarks.common.report import Report
from silverray.benchmarks.tables import int8_tables
from silverray.shard.index.memory import format_bytes
from silverray.shard.towers.table import Table
from silverray.shard.towers.table_files import save_tables
from silverray.shard.towers.tables import LocalTables, Lookup, embedding_tables, keyed_jagged
from silverray.shard.towers.tables import int8_tables as read_int8

if TYPE_CHECKING:
    from torchrec import KeyedJaggedTensor

    from silverray.cluster.tables.dispatcher import GroupTables

TITLE = "Embedding tables in one process and in table groups"
USERS, FILMS, QUICK_SHARE = 200_000, 100_000, 50
"""77 MB: larger than a core's caches, small enough to load many times. A quick run has a part of it."""
DIMENSION, HISTORY = 64, 50
"""Of the demo's kind of tower, with the longest history that it stores."""
BATCHES = (1, 8, 64, 256)
"""Alone, a few, a router's batch, and a body's queries."""
RANKS, QUICK_RANKS = (2, 4), (2,)
"""Of two ranks none has room for the larger table, of four none for either: both kinds of cut are timed."""
ROUNDS, QUICK_ROUNDS = 100, 5
"""Collectives of several processes on few cores scatter widely: the p80 of 100 rests on 20."""
KILLS, QUICK_KILLS = 3, 1
"""A group takes 12 to 21 s until it is back, and times differ more than a mean of more would tell."""
SEEDS = 3
"""What int8 costs is told from what a seed makes of recall."""
RANK_CPUS = 0.1
"""Ray must place six ranks, which mostly wait for each other, on two CPUs."""
POLL_S = 0.01
"""A tenth of the shortest time that is measured."""
COLUMNS = {
    "tables": "{contender}",
    "requests": "{requests}",
    "ms p50": "{ms_p50:.2f}",
    "p20": "{ms_p20:.2f}",
    "p80": "{ms_p80:.2f}",
    "requests/s": "{rate_p50:,.0f}",
}
PLACES = {"ranks": "{ranks}", "table": "{table}", "rank": "{rank}", "sharding": "{sharding}", "MiB": "{mib:.1f}"}
LOSSES = {"ranks": "{ranks}", "noticed after s": "{noticed_s:.2f}", "back after s": "{back_s:.1f}"}


def run(work: Path, *, quick: bool = False) -> Report:
    """Run the benchmark; `work` keeps the tables."""
    report = Report("tables", TITLE, "silverray bench tables", quick=quick)
    scale = QUICK_SHARE if quick else 1
    tables = (
        Table("users", USERS // scale, DIMENSION, ("user",), "sum"),
        Table("films", FILMS // scale, DIMENSION, ("history",), "mean"),
    )
    folder = work / f"tables-{USERS // scale}"
    torch.manual_seed(0)
    module = embedding_tables(tables)
    save_tables(folder, tables, module)
    report.facts({"tables": {table.name: format_bytes(table.bytes) for table in tables}, "history": HISTORY})
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        with asyncio.Runner() as runner:
            groups = {ranks: runner.run(_form(tables, folder, ranks)) for ranks in (QUICK_RANKS if quick else RANKS)}
            contenders: dict[str, Lookup] = {
                "fp32, in process": LocalTables(tables, module),
                "int8, in process": LocalTables(tables, read_int8(tables, folder)),
                **{f"fp32, group of {ranks}": group for ranks, group in groups.items()},
            }
            rounds = QUICK_ROUNDS if quick else ROUNDS
            rows = [row for size in BATCHES for row in _time(runner, contenders, _batch(tables, size), rounds)]
            report.table("look-ups of a batch, one at a time", COLUMNS, rows)
            report.table("what lies where", PLACES, [row for group in groups.values() for row in _places(group)])
            for group in groups.values():
                runner.run(group.close())
            kills = QUICK_KILLS if quick else KILLS
            losses = [row for ranks in groups for row in runner.run(_lose_ranks(tables, folder, ranks, kills))]
            report.table("a rank is killed", LOSSES, losses)
    finally:
        ray.shutdown()
    seeds, epochs = (1, 1) if quick else (SEEDS, None)
    report.table(
        "the user tower of the demo on MovieLens", int8_tables.COLUMNS, int8_tables.compare(work, seeds, epochs)
    )
    return report


async def _form(tables: Sequence[Table], folder: Path, ranks: int) -> GroupTables:
    from silverray.cluster.tables.dispatcher import GroupTables
    from silverray.cluster.tables.plan import RankBudget, plan_tables

    # A quarter more than an equal share: less than either table in a group of 4, and than both in one of 2.
    room = int(1.25 * sum(table.bytes for table in tables) / ranks)
    return await GroupTables.form(plan_tables(tables, ranks, RankBudget(room)), folder, RANK_CPUS)


def _batch(tables: Sequence[Table], requests: int) -> KeyedJaggedTensor:
    rng = np.random.default_rng(requests)
    lengths = rng.integers(0, HISTORY + 1, requests)
    users, films = rng.integers(0, tables[0].rows, requests), rng.integers(0, tables[1].rows, int(lengths.sum()))
    columns = {"user": (users, np.ones(requests, np.int64)), "history": (films, lengths)}
    return keyed_jagged({name: (torch.from_numpy(ids), torch.from_numpy(n)) for name, (ids, n) in columns.items()})


def _time(
    runner: asyncio.Runner, contenders: Mapping[str, Lookup], batch: KeyedJaggedTensor, rounds: int
) -> list[dict[str, Any]]:
    first, *others = [runner.run(_look_up(contender, batch)) for contender in contenders.values()]
    for found in others[1:]:
        torch.testing.assert_close(found, first, rtol=0, atol=1e-6)

    def asking(contender: Lookup) -> Callable[[], object]:
        return lambda: runner.run(_look_up(contender, batch))

    timings = interleave({name: asking(one) for name, one in contenders.items()}, rounds=rounds, warmup=3)
    requests = batch.stride()
    return [
        {"contender": name, "requests": requests, **timing.seconds(1e-3, "ms"), **timing.rates(requests, "rate")}
        for name, timing in timings.items()
    ]


async def _look_up(tables: Lookup, batch: KeyedJaggedTensor) -> torch.Tensor:
    return await tables.look_up(batch)


def _places(group: GroupTables) -> list[dict[str, Any]]:
    plan = group.describe()
    return [{**shard, "ranks": len(plan["rank_bytes"]), "mib": shard["bytes"] / 2**20} for shard in plan["shards"]]


async def _lose_ranks(tables: Sequence[Table], folder: Path, ranks: int, kills: int) -> list[dict[str, Any]]:
    group = await _form(tables, folder, ranks)
    rows = []
    for _ in range(kills):
        os.kill(own_actors("TableRank")[-1], signal.SIGKILL)
        killed = time.perf_counter()
        row: dict[str, Any] = {"ranks": ranks}
        for name, ready in (("noticed_s", False), ("back_s", True)):
            while group.describe()["ready"] is not ready:
                await asyncio.sleep(POLL_S)
            row[name] = time.perf_counter() - killed
        rows.append(row)
    await group.close()
    return rows
