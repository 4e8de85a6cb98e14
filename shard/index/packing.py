"""Slot packing: which slot each item takes, with or without slack behind every cluster's items.

Letters: n items, C clusters, N slots.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

SLACK = 0.1
"""Free slots for each item of a shard that takes updates."""
LEAST_FREE = 512
"""Free slots that a shard which takes updates has at least, spread over its clusters,"""
LEAST_FREE_EACH = 4
"""and that each of its clusters has."""
TAGS_A_FREE_SLOT = 8
"""Tags that there is room for, for each free slot."""


class SlotPacking(NamedTuple):
    """Slots of items, in (cluster, key) order.

    Attributes:
        order: `[n]` int64, the items in that order.
        slots: `[n]` int64, the slot of each item of `order`, ascending.
        offsets: `[C + 1]` int64; cluster c has slots `offsets[c]` to `offsets[c + 1]`, end excluded: its items, and
            then what is free.
    """

    order: Tensor
    slots: Tensor
    offsets: Tensor

    @classmethod
    def of(cls, keys: Tensor, clusters: Tensor, count: int, slack: float | None) -> Self:
        """Arrange items.

        Args:
            keys: `[n]` int64.
            clusters: `[n]` integers, the cluster of each item.
            count: C.
            slack: free slots for each item; None has no free slots at all.
        """
        order = torch.from_numpy(np.lexsort((keys.numpy(), clusters.numpy())))
        sizes = torch.bincount(clusters, minlength=count)
        free = torch.zeros_like(sizes)
        if slack is not None:
            shares = (sizes.cumsum(0).double() * slack).floor().long()
            free = shares.diff(prepend=shares.new_zeros(1)) + _free_each(count)
        before = free.cumsum(0) - free
        offsets = torch.cat([sizes.new_zeros(1), (sizes + free).cumsum(0)])
        return cls(order, torch.arange(len(keys)) + before[clusters[order].long()], offsets)

    @property
    def width(self) -> int:
        """N, the number of slots."""
        return int(self.offsets[-1])

    def free(self) -> Tensor:
        """The slots that hold no item, `[N - n]` int64."""
        empty = torch.ones(self.width, dtype=torch.bool)
        empty[self.slots] = False
        return torch.nonzero(empty)[:, 0]


def count_slots(items: int, clusters: int, slack: float | None) -> int:
    """N, known before the items are."""
    return items if slack is None else items + math.floor(items * slack) + clusters * _free_each(clusters)


def count_spare_tags(items: int, slots: int) -> int:
    """Tags that a field has room for beside those that there are."""
    return TAGS_A_FREE_SLOT * (slots - items)


def _free_each(clusters: int) -> int:
    return max(LEAST_FREE_EACH, -(-LEAST_FREE // clusters))
