"""How often items were shown, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from silverray.shard.train.batch import Batch
from silverray.shard.train.format import ITEM


class ItemCounts(NamedTuple):
    """Counts by item id; 0 is the unknown item.

    Attributes:
        shown: `[N]` int64 impressions.
        positive: `[N, T]` int64 impressions whose label of a task is above 0.
    """

    shown: Tensor
    positive: Tensor

    @classmethod
    def of(cls, batches: Iterable[Batch], ids: int, tasks: int) -> ItemCounts:
        """Count over the batches of one epoch.

        Args:
            batches: as they are trained on.
            ids: N, number of item ids.
            tasks: T, number of tasks.
        """
        counts = cls(torch.zeros(ids, dtype=torch.int64), torch.zeros(ids, tasks, dtype=torch.int64))
        for batch in batches:
            items = batch.items[ITEM].values()
            counts.shown.add_(torch.bincount(items, minlength=ids))
            counts.positive.index_add_(0, items, (batch.labels > 0).long())
        return counts

    @property
    def shares(self) -> Tensor:
        """`[N]` float64, each item's share of all impressions."""
        return self.shown.double() / self.shown.sum().clamp(min=1)
