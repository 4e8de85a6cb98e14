"""A model with all that it is trained for, as one module: what is optimised, and what is given to other processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from silverray.shard.towers.two_tower import TwoTower
from silverray.shard.train.batch import Batch
from silverray.shard.train.format import ITEM
from silverray.shard.train.objectives import Candidates


class JointModel(nn.Module):
    """A two-tower model and its objectives.

    Args:
        model: the towers.
        objectives: modules that satisfy `Objective`, by name.
        gather: gives the rows of all processes that train together, as `Workers.gather`.
    """

    def __init__(
        self, model: TwoTower, objectives: Mapping[str, nn.Module], gather: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.model = model
        self.objectives = nn.ModuleDict(objectives)
        self._gather = gather

    def forward(self, batch: Batch) -> Tensor:
        """Judge this process's part of a batch: `[K, 2]` float32, a `Loss` of each of the K objectives."""
        encoded = self.model(batch.user, batch.items, batch.request)
        # A process has no impressions where a batch has fewer requests than there are processes.
        item_ids = batch.items[ITEM].values() if len(batch.request) else batch.request
        candidates = distinct(self._gather(item_ids), self._gather(encoded.items))
        losses = [objective(encoded, batch, item_ids, candidates) for objective in self.objectives.values()]
        return torch.stack([torch.stack(loss) for loss in losses])


def distinct(ids: Tensor, vectors: Tensor) -> Candidates:
    """Each item once: that of its first impression.

    Args:
        ids: `[I]` int64.
        vectors: `[I, D]` float32, equal where the ids are; of items that share a hashed id, the first one's counts.
    """
    unique, place = torch.unique(ids, return_inverse=True)
    places = torch.arange(len(ids), device=ids.device)
    first = torch.full_like(unique, len(ids)).scatter_reduce(0, place, places, "amin")
    return Candidates(unique, vectors[first], len(ids))
