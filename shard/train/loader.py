"""Reads batches out of a request table, shuffled within a window."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from silverray.shard.towers.jagged import features_of
from silverray.shard.train.batch import Batch
from silverray.shard.train.items import ItemTable
from silverray.shard.train.order import WindowShuffle
from silverray.shard.train.requests import Requests, RequestTable


@dataclass(frozen=True, slots=True, kw_only=True)
class LoaderConfig:
    """How requests become batches.

    Attributes:
        requests: requests in a batch; the last batch of an epoch can have fewer.
        impressions: instead, the most impressions in a batch. A request is never split: one with more is a batch of its
            own.
        shuffle_window: a request moves fewer places than this; 1 keeps the order of time.
        seed: of the shuffle.

    Raises:
        ValueError: a value is out of range, or not just one of `requests` and `impressions` is given.
    """

    requests: int | None = None
    impressions: int | None = None
    shuffle_window: int = 8_192
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.requests is None) == (self.impressions is None):
            raise ValueError("batch: expected either requests or impressions, got both or neither")
        for name in ("requests", "impressions", "shuffle_window"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected 1 or more, got {value}")
        if self.seed < 0:
            raise ValueError(f"seed: expected 0 or more, got {self.seed}")


class RequestLoader:
    """The batches of a request table.

    At most one block, what lies within the shuffle window and one batch are in memory. The batches depend on table,
    items, configuration and epoch alone: processes that train together read the same ones, and each takes its part.

    Args:
        table: the requests.
        items: what is joined to them.
        config: how they become batches.
    """

    def __init__(self, table: RequestTable, items: ItemTable, config: LoaderConfig) -> None:
        self.table, self.items, self.config = table, items, config

    def batches(self, epoch: int, position: int = 0) -> Iterator[Batch]:
        """The batches of an epoch.

        Args:
            epoch: 0 or more.
            position: requests of this epoch that were in the batches before; the sum of `len(batch.times)`. Batches
                from there are those of an uninterrupted epoch.

        Raises:
            TableError: a file of the table is damaged.
            ValueError: the epoch has no such position.
            TablesUnavailable: TorchRec is not installed.
        """
        if epoch < 0:
            raise ValueError(f"epoch: expected 0 or more, got {epoch}")
        if not 0 <= position <= len(self.table):
            raise ValueError(f"position: expected 0 to {len(self.table)}, the number of requests, got {position}")
        waiting: list[Requests] = []
        for block in self._ordered(epoch, position):
            requests = Requests.concat([*waiting, block])
            cuts = self._cuts(requests)
            for start, end in pairwise(cuts):
                yield self._batch(requests.take(np.arange(start, end)))
            waiting = [requests.take(np.arange(cuts[-1], len(requests.times)))]
        if waiting and len(waiting[0].times):
            yield self._batch(waiting[0])

    def _cuts(self, requests: Requests) -> list[int]:
        """Where full batches begin and end; what is behind the last waits for more."""
        total = len(requests.times)
        if self.config.requests is not None:
            return list(range(0, total + 1, self.config.requests))
        assert self.config.impressions is not None
        cuts, offsets = [0], requests.items.offsets
        while True:
            # The furthest end at which the impressions still fit.
            end = int(np.searchsorted(offsets, offsets[cuts[-1]] + self.config.impressions, side="right")) - 1
            end = max(end, cuts[-1] + 1)
            if end >= total:
                return cuts
            cuts.append(end)

    def _ordered(self, epoch: int, position: int) -> Iterator[Requests]:
        """The requests in the epoch's order, from a position on."""
        shuffle = WindowShuffle(self.config.shuffle_window, self.config.seed, epoch)
        held: Requests | None = None
        held_keys = np.empty(0)
        skip: int | None = None
        for block, keys, first in self._blocks(shuffle, shuffle.first_row(position)):
            skip = position - first if skip is None else skip
            held = block if held is None else Requests.concat([held, block])
            held_keys = np.concatenate([held_keys, keys])
            order = np.argsort(held_keys, kind="stable")
            # Rows that are still to come have keys of at least their number.
            known = int(np.searchsorted(held_keys[order], first + len(keys), side="left"))
            yield held.take(order[min(skip, known) : known])
            skip -= min(skip, known)
            held, held_keys = held.take(order[known:]), held_keys[order[known:]]
        if held is not None and skip is not None:
            yield held.take(np.arange(len(held_keys))[skip:])

    def _blocks(self, shuffle: WindowShuffle, start: int) -> Iterator[tuple[Requests, NDArray[np.float64], int]]:
        """Blocks with the keys of their rows and the place of their first row, from the row group of row `start` on."""
        first, before = 0, None
        for number, group in enumerate(self.table.groups):
            if first + group.rows > start:
                keys = shuffle.keys(number, first, group.rows)
                done = 0
                for block in self.table.read(group, self.items.ids, before):
                    rows = len(block.times)
                    yield block, keys[done : done + rows], first + done
                    done += rows
                    before = int(block.times[-1])
            first += group.rows

    def _batch(self, requests: Requests) -> Batch:
        return Batch(
            user=features_of(requests.user),
            items=features_of(self.items.look_up(requests.items.values)),
            request=torch.from_numpy(np.repeat(np.arange(len(requests.times)), requests.items.lengths)),
            labels=torch.from_numpy(requests.labels),
            times=torch.from_numpy(requests.times),
        )
