"""A rank of a table group: one process that holds some shards of the tables and takes part in every look-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported at run time
from torchrec.distributed.embeddingbag import ShardedEmbeddingBagCollection
from torchrec.distributed.types import ShardingEnv

from silverray.cluster.tables.plan import TablePlan, sharder
from silverray.cluster.tables.slices import FeatureSlice
from silverray.shard.towers.table import Table
from silverray.shard.towers.table_files import check_tables, read_part
from silverray.shard.towers.tables import embedding_tables, keyed_jagged, look_up

TIMEOUT_S = 5.0
"""Longest time that ranks wait for each other in a look-up."""

_BACKENDS = {"cpu": "gloo", "cuda": "nccl"}
START_S = 120.0
"""Ranks import TorchRec and meet after 12 to 14 s on two busy cores (decision 21.7); nearly ten times that, since a
start given up too soon begins again and never ends."""


class TableRank:
    """Joins the group and loads its shards; every rank of a group is called with its slice of the same batch.

    Args:
        rank: which one this is.
        plan: what each rank holds.
        folder: where `save_tables` wrote the tables.
        store: host and port of the group's store, where ranks find each other.

    Raises:
        SnapshotError: a table's file is missing or does not fit.
    """

    def __init__(self, rank: int, plan: TablePlan, folder: Path, store: tuple[str, int]) -> None:
        self._tables = plan.tables
        # TorchRec's means over rows of several ranks divide by 1e-6 too much, and, where parts lie in another order
        # than the features, by the lengths of other features: ranks sum, and divide themselves.
        self._sums = [replace(table, pooling="sum") for table in plan.tables]
        self._device = torch.device(plan.device)
        _join(rank, plan, store)
        self._module = load_shards(self._sums, plan, folder, self._device)

    def look_up(self, features: FeatureSlice) -> NDArray[np.float32]:
        """Look up a slice, together with the other ranks: `[C, W]`."""
        with torch.no_grad():  # not inference mode: FBGEMM's kernel for CPUs is registered for autograd only
            ids = keyed_jagged(features.columns()).to(self._device)
            sums: NDArray[np.float32] = look_up(self._module, self._sums, ids).cpu().numpy()
        return sums / self._divisors(features.lengths)

    def _divisors(self, lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """What makes sums means: `[C, W]`, 1 for features that are summed and those without ids."""
        poolings = [(table.pooling, table.dimension) for table in self._tables for _ in table.features]
        counts = [
            row if pooling == "mean" else np.ones_like(row) for row, (pooling, _) in zip(lengths, poolings, strict=True)
        ]
        widths = [width for _, width in poolings]
        return np.repeat(np.maximum(counts, 1), widths, axis=0).T.astype(np.float32)


def _join(rank: int, plan: TablePlan, store: tuple[str, int]) -> None:
    """Make the process group, once all ranks are there: starting takes them longer than look-ups may."""
    meeting = TCPStore(*store, is_master=False, timeout=timedelta(seconds=START_S))
    meeting.set(f"rank {rank}", "here")
    meeting.wait([f"rank {other}" for other in range(plan.ranks)])
    distributed.init_process_group(
        _BACKENDS[plan.device],
        store=meeting,
        rank=rank,
        world_size=plan.ranks,
        timeout=timedelta(seconds=TIMEOUT_S),
    )


def load_shards(
    tables: Sequence[Table], plan: TablePlan, folder: Path, device: torch.device
) -> ShardedEmbeddingBagCollection:
    """The shards of tables that a plan gives to this rank, in the process group that was made before.

    Raises:
        SnapshotError: a table's file is missing or does not fit.
    """
    check_tables(folder, tables)  # as this node has them, before room is made
    group = distributed.group.WORLD
    assert group is not None, "the process group was made before"
    module = sharder().shard(
        embedding_tables(tables, torch.device("meta")),
        plan.sharding,
        ShardingEnv.from_process_group(group),
        device,
    )
    weights = module.state_dict()
    with torch.no_grad():
        for table in tables:
            for shard in weights[f"embedding_bags.{table.name}.weight"].local_shards():
                read_part(folder, table, tuple(shard.metadata.shard_offsets), shard.tensor)
    return module.eval()
