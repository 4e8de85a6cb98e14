"""A table group: ranks in processes of their own that hold a plan's tables between them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import RayError
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported at run time

from silverray.cluster.tables.plan import TablePlan
from silverray.cluster.tables.rank import START_S, TIMEOUT_S, TableRank
from silverray.cluster.tables.slices import FeatureSlice

_LOAD_BYTES_PER_S = 50e6
"""A slow network disk: what loading is given beside the start. A slower one would never see its group formed."""


class GroupFailed(RuntimeError):
    """A rank died, raised, or did not answer in time; the group is of no more use."""


class TableGroup:
    """Ranks as Ray actors, which end with the process that formed them.

    Args:
        plan: what each rank holds.
        ranks: their actors.
        store: where they found each other.
    """

    def __init__(self, plan: TablePlan, ranks: Sequence[Any], store: TCPStore) -> None:
        self._plan = plan
        self._ranks = tuple(ranks)
        self._store = store  # its server lives as long as this object

    @classmethod
    async def form(cls, plan: TablePlan, folder: Path, cpus: float) -> Self:
        """Start ranks, on different nodes where there are some, and wait until they have loaded their shards.

        Args:
            plan: what each rank holds.
            folder: where `save_tables` wrote the tables, readable under this path on every node.
            cpus: what Ray sets aside for each rank.

        Raises:
            GroupFailed: a rank could not be placed, died or raised.
        """
        host = ray.util.get_node_ip_address()
        store = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=START_S))
        actor = ray.remote(TableRank).options(
            num_cpus=cpus, num_gpus=plan.device == "cuda", scheduling_strategy="SPREAD", max_restarts=0
        )
        ranks = [actor.remote(rank, plan, folder, (host, store.port)) for rank in range(plan.ranks)]
        group = cls(plan, ranks, store)
        largest = max(plan.rank_bytes)
        try:
            await group._ask(_nothing(plan), START_S + largest / _LOAD_BYTES_PER_S)
        except BaseException:
            group.kill()
            raise
        return group

    async def look_up(self, slices: Sequence[FeatureSlice]) -> NDArray[np.float32]:
        """Look up a batch.

        Args:
            slices: one for each rank, of equally many requests.

        Returns:
            `[R, W]`, the requests of all slices.

        Raises:
            GroupFailed: a rank died, raised, or did not answer in time.
        """
        return await self._ask(slices, TIMEOUT_S)

    async def probe(self) -> None:
        """Look up a request without ids, to see that all ranks are there.

        Raises:
            GroupFailed: they are not.
        """
        await self._ask(_nothing(self._plan), TIMEOUT_S)

    def kill(self) -> None:
        """End all ranks, whatever they are doing."""
        for rank in self._ranks:
            ray.kill(rank)

    async def _ask(self, slices: Sequence[FeatureSlice], timeout_s: float) -> NDArray[np.float32]:
        answers = [rank.look_up.remote(part) for rank, part in zip(self._ranks, slices, strict=True)]
        try:
            async with asyncio.timeout(timeout_s):
                found = await asyncio.gather(*answers)
        except TimeoutError:
            raise GroupFailed(f"no answer from all of {len(self._ranks)} ranks within {timeout_s:.0f} s") from None
        except RayError as error:
            raise GroupFailed(str(error)) from error
        return np.concatenate(found)


def _nothing(plan: TablePlan) -> list[FeatureSlice]:
    keys = tuple(name for table in plan.tables for name in table.features)
    return [FeatureSlice(keys, np.empty(0, np.int64), np.zeros((len(keys), 1), np.int64))] * plan.ranks
