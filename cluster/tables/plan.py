"""Where the parts of embedding tables lie: TorchRec's planner, given what each rank has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.planner.stats import NoopEmbeddingStats
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import KernelConfig, PlannerError, TopologyFactory, TrainerConfig
from torchrec.distributed.types import EmbeddingModuleShardingPlan

from silverray.shard.index.memory import format_bytes
from silverray.shard.towers.table import Table
from silverray.shard.towers.tables import TablesTooLarge, embedding_tables

Device = Literal["cpu", "cuda"]

_BATCH = 64
"""The planner reckons the room for a batch's ids and vectors by it: the requests of a router's largest batch by
default (`batching.max_batch`)."""
_WAYS = (("table_wise",), ("table_wise", "column_wise"), ("table_wise", "column_wise", "row_wise"))
_KERNELS = {"cpu": ("fused",), "cuda": ("fused", "fused_uvm_caching")}


@dataclass(frozen=True, slots=True)
class RankBudget:
    """What tables may take of one rank.

    Attributes:
        host_bytes: of its host's memory.
        hbm_bytes: of its GPU's memory; 0 where ranks compute on CPUs.
    """

    host_bytes: int
    hbm_bytes: int = 0


class TableShard(NamedTuple):
    """The part of a table that one rank holds.

    Attributes:
        table: name of the table.
        rank: who holds it.
        sharding: how the table is cut: table_wise, column_wise or row_wise.
        kernel: fused (in the memory of the device) or fused_uvm_caching (in the host's, rows in use cached on the GPU).
        rows: first row, and the row after the last.
        columns: likewise.
        bytes: of its weights in fp32.
    """

    table: str
    rank: int
    sharding: str
    kernel: str
    rows: tuple[int, int]
    columns: tuple[int, int]
    bytes: int


@dataclass(frozen=True, slots=True)
class TablePlan:
    """A placement of tables on the ranks of a group.

    Attributes:
        tables: the tables.
        ranks: number of ranks.
        device: where they compute.
        shards: all parts, by table and place in it.
        sharding: the same for TorchRec.
    """

    tables: tuple[Table, ...]
    ranks: int
    device: Device
    shards: tuple[TableShard, ...]
    sharding: EmbeddingModuleShardingPlan

    @property
    def rank_bytes(self) -> list[int]:
        """What each rank holds."""
        return [sum(shard.bytes for shard in self.shards if shard.rank == rank) for rank in range(self.ranks)]

    def describe(self) -> dict[str, Any]:
        """The plan as JSON values, for a status reply."""
        shards = [shard._asdict() for shard in self.shards]
        return {"device": self.device, "rank_bytes": self.rank_bytes, "shards": shards}


class _Sharder(EmbeddingBagCollectionSharder):  # type: ignore[misc]  # TorchRec has no types
    """Offers the planner row-wise shards on CPUs too, where they work but are not offered."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        return list(_WAYS[-1])

    def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
        return list(_KERNELS[compute_device_type])


def sharder() -> EmbeddingBagCollectionSharder:
    """What cuts a module of tables by a plan of this file."""
    return _Sharder(fused_params={})


def plan_tables(tables: Sequence[Table], ranks: int, budget: RankBudget, device: Device = "cpu") -> TablePlan:
    """Place tables on ranks.

    A table that fits one rank stays whole, one that does not is cut by rows. Where the ranks cannot be filled so, or
    GPUs have room in parts, tables may be cut by columns, which leaves sums as they are, and at last all by rows.

    Args:
        tables: the tables.
        ranks: number of ranks.
        budget: what each rank has; it must also hold a lookup's inputs and outputs.
        device: where ranks compute.

    Raises:
        TablesTooLarge: the tables do not fit.
        TablesUnavailable: TorchRec is not installed.
    """
    room = max(budget.hbm_bytes, budget.host_bytes) if device == "cuda" else budget.host_bytes
    module = embedding_tables(tables, torch.device("meta"))
    for ways in _WAYS[1:] if device == "cuda" else _WAYS:
        allowed = {table.name: list(ways) if table.bytes < room else ["row_wise"] for table in tables}
        try:
            planner = _planner(tables, allowed, ranks, budget, device)
            sharding = planner.plan(module, [sharder()]).plan[""]
        except PlannerError:
            continue
        return TablePlan(tuple(tables), ranks, device, _shards(tables, sharding), sharding)
    raise TablesTooLarge(_why(tables, ranks, budget, room, device))


def _planner(
    tables: Sequence[Table], allowed: dict[str, list[str]], ranks: int, budget: RankBudget, device: Device
) -> EmbeddingShardingPlanner:
    # The planner makes parts by columns as small as they may be: one for each rank, of a multiple of 4 columns.
    constraints = {}
    for table in tables:
        columns = 4 * math.ceil(table.dimension / ranks / 4)
        types = [way for way in allowed[table.name] if way != "column_wise" or columns < table.dimension]
        constraints[table.name] = ParameterConstraints(sharding_types=types, min_partition=columns)
    return EmbeddingShardingPlanner(
        topology=_topology(ranks, budget, device),
        batch_size=_BATCH,
        constraints=constraints,
        storage_reservation=FixedPercentageStorageReservation(0.0),
        stats=NoopEmbeddingStats(),
        debug=False,
    )


def _topology(ranks: int, budget: RankBudget, device: Device) -> Topology:
    # Ray shows every rank its own GPU as the first one, as if each had a host of its own.
    return TopologyFactory.create_topology(
        TrainerConfig(
            world_size=ranks, local_world_size=1, hbm_cap_bytes=budget.hbm_bytes, ddr_cap_bytes=budget.host_bytes
        ),
        kernel_config=KernelConfig(compute_device=device),
    )


def _shards(tables: Sequence[Table], sharding: EmbeddingModuleShardingPlan) -> tuple[TableShard, ...]:
    return tuple(
        TableShard(
            table=table.name,
            rank=part.placement.rank(),
            sharding=sharding[table.name].sharding_type,
            kernel=sharding[table.name].compute_kernel,
            rows=(part.shard_offsets[0], part.shard_offsets[0] + part.shard_sizes[0]),
            columns=(part.shard_offsets[1], part.shard_offsets[1] + part.shard_sizes[1]),
            bytes=4 * math.prod(part.shard_sizes),
        )
        for table in tables
        for part in sharding[table.name].sharding_spec.shards
    )


def _why(tables: Sequence[Table], ranks: int, budget: RankBudget, room: int, device: Device) -> str:
    have = f"{format_bytes(budget.host_bytes)} of host memory"
    if device == "cuda":
        have = f"{format_bytes(budget.hbm_bytes)} of GPU memory and {have}"
    advice = "use more ranks or larger budgets"
    for table in tables:
        share = math.ceil(table.rows / ranks) * table.dimension * 4
        if share >= room:
            return (
                f"tables: table {table.name!r} takes {format_bytes(table.bytes)}, {format_bytes(share)} on each of"
                f" {ranks} ranks; expected less than the {have} of a rank; {advice}"
            )
    whole = format_bytes(sum(table.bytes for table in tables))
    return f"tables: {len(tables)} tables take {whole} in all and do not fit {ranks} ranks with {have} each; {advice}"
