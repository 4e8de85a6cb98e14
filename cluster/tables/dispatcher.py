"""The dispatcher of a table group: gives it one batch at a time, and forms it again when it fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from silverray.cluster.tables.group import TableGroup
from silverray.cluster.tables.plan import TablePlan
from silverray.cluster.tables.slices import FeatureSlice, split_requests
from silverray.shard.api import EncoderUnavailable, Overloaded
from silverray.shard.towers.tables import check_ids

if TYPE_CHECKING:
    from torchrec import KeyedJaggedTensor

_logger = logging.getLogger(__name__)

_MAX_WAITING = 64
"""At 8 to 15 ms of collectives a batch, the last of them waits for up to a second: longer than most deadlines."""
_PROBE_EVERY_S = 2.0
"""How late a dead rank of an idle group is noticed, before a request meets it (decision 21.7). A probe takes a
look-up's time of all ranks."""
_FIRST_PAUSE_S = 0.5
"""Short beside the 10 s that ranks take to start; doubled after each failure."""
_LONGEST_PAUSE_S = 10.0
"""Each try starts processes and imports, so that tries without hope must not take a core for ever."""


@dataclass(frozen=True, slots=True)
class _Batch:
    slices: Sequence[FeatureSlice]
    answer: asyncio.Future[NDArray[np.float32]]


class GroupTables:
    """A `Lookup` over a table group.

    Collectives need one order on all ranks, so one task calls them, a batch at a time. When a rank dies, raises or
    hangs, all ranks are killed and started again from the tables' files; until they are there, look-ups are refused at
    once. An idle group is asked for nothing now and then, so that the death of a rank is seen without a request.
    Belongs to one event loop.

    Args:
        group: the group.
        plan: what its ranks hold.
        folder: where the tables are.
        cpus: what Ray sets aside for each rank.
    """

    def __init__(self, group: TableGroup, plan: TablePlan, folder: Path, cpus: float) -> None:
        self._group: TableGroup | None = group
        self._plan = plan
        self._folder = folder
        self._cpus = cpus
        self._failures = 0
        self._waiting: asyncio.Queue[_Batch] = asyncio.Queue(_MAX_WAITING)
        self._dispatching = asyncio.create_task(self._dispatch())

    @classmethod
    async def form(cls, plan: TablePlan, folder: Path, cpus: float) -> Self:
        """Form the group; the arguments and errors are those of `TableGroup.form`."""
        return cls(await TableGroup.form(plan, folder, cpus), plan, folder, cpus)

    async def look_up(self, features: KeyedJaggedTensor) -> torch.Tensor:
        """Look up features; see `Lookup`.

        Raises:
            EncoderUnavailable: the group is being formed again.
            Overloaded: too many batches are waiting already.
        """
        slices = await asyncio.get_running_loop().run_in_executor(None, self._split, features)
        if self._group is None:
            raise EncoderUnavailable("the embedding tables are being loaded again")
        batch = _Batch(slices, asyncio.get_running_loop().create_future())
        try:
            self._waiting.put_nowait(batch)
        except asyncio.QueueFull:
            raise Overloaded(f"{_MAX_WAITING} batches are waiting for the embedding tables already") from None
        found = await batch.answer
        return torch.from_numpy(found[: features.stride()])

    def describe(self) -> dict[str, Any]:
        """Whether the group is ready, how often it failed, and its plan, as JSON values."""
        return {"ready": self._group is not None, "failures": self._failures, **self._plan.describe()}

    async def close(self) -> None:
        """End the ranks; batches that wait are refused."""
        self._dispatching.cancel()
        await asyncio.gather(self._dispatching, return_exceptions=True)

    def _split(self, features: KeyedJaggedTensor) -> list[FeatureSlice]:
        check_ids(self._plan.tables, features)
        return split_requests(self._plan.tables, features, self._plan.ranks)

    async def _dispatch(self) -> None:
        while True:
            group = self._group or await self._form_again()
            batch: _Batch | None = None
            try:
                batch = await self._next()
                if batch is None:
                    await group.probe()
                elif not batch.answer.done():  # otherwise its caller has gone
                    found = await group.look_up(batch.slices)
                    if not batch.answer.done():
                        batch.answer.set_result(found)
            except Exception as error:
                self._failures += 1
                _logger.error("the table group failed and is formed again: %s", error)
                self._give_up(batch)
            except asyncio.CancelledError:
                self._give_up(batch)
                raise

    async def _next(self) -> _Batch | None:
        """The batch whose turn it is; None when there was none for a while."""
        try:
            return await asyncio.wait_for(self._waiting.get(), _PROBE_EVERY_S)
        except TimeoutError:
            return None

    async def _form_again(self) -> TableGroup:
        pause_s = _FIRST_PAUSE_S
        while self._group is None:
            try:
                self._group = await TableGroup.form(self._plan, self._folder, self._cpus)
            except Exception as error:
                _logger.error("the table group could not be formed, next try in %.1f s: %s", pause_s, error)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        return self._group

    def _give_up(self, batch: _Batch | None = None) -> None:
        """Kill the group, and refuse the batch that it had and those that wait."""
        if self._group is not None:
            self._group.kill()
            self._group = None
        refused = [batch] if batch else []
        while not self._waiting.empty():
            refused.append(self._waiting.get_nowait())
        for one in refused:
            if not one.answer.done():
                one.answer.set_exception(EncoderUnavailable("a part of the embedding tables was lost"))
