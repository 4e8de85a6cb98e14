"""User and item towers: features in, vectors of one space out.

Letters: B users or items, W width of their looked-up features, T tasks, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from silverray.shard.towers.table import Table
from silverray.shard.towers.tables import embedding_tables

if TYPE_CHECKING:
    from torchrec import KeyedJaggedTensor

ROW_STD = 0.05
"""Small, so that at first rare items and values are placed by the other features."""


@dataclass(frozen=True, slots=True)
class TowerShape:
    """The sizes of a tower, enough to build one before its weights are loaded.

    Attributes:
        tables: its embedding tables; every feature stands in one of them.
        hidden: width of the hidden layer.
        dimension: D, width of the vectors.
        tasks: T, vectors per user; 1 for items.
    """

    tables: tuple[Table, ...]
    hidden: int = 128
    dimension: int = 64
    tasks: int = 1

    def __post_init__(self) -> None:
        if len(set(self.features)) != len(self.features):
            raise ValueError(f"tables: expected every feature in one table, got {', '.join(self.features)}")

    @property
    def features(self) -> tuple[str, ...]:
        """All features, in the order in which the tower joins their vectors."""
        return tuple(feature for table in self.tables for feature in table.features)

    @property
    def width(self) -> int:
        """W, the width of all features' vectors side by side."""
        return sum(table.dimension * len(table.features) for table in self.tables)


class DenseLayers(nn.Module):
    """What a tower does after its features were looked up: a hidden layer that all tasks share, and a head for each.

    Args:
        shape: the tower's sizes.
    """

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.tasks, self.dimension = shape.tasks, shape.dimension
        self.trunk = nn.Sequential(nn.Linear(shape.width, shape.hidden), nn.ReLU())
        self.heads = nn.Linear(shape.hidden, shape.tasks * shape.dimension)

    def forward(self, pooled: Tensor) -> Tensor:
        """Encode B users.

        Args:
            pooled: `[B, W]` float32, the features' vectors side by side in the order of `TowerShape.features`.

        Returns:
            `[B, T, D]` float32 vectors of length 1.
        """
        vectors = self.heads(self.trunk(pooled)).view(-1, self.tasks, self.dimension)
        return functional.normalize(vectors, dim=2)

    def state_of(self, tasks: Sequence[int]) -> dict[str, Tensor]:
        """The weights of layers that have some of the heads only, in the order of `tasks`."""
        state: dict[str, Tensor] = self.state_dict()
        for name in ("heads.weight", "heads.bias"):
            heads = state[name].view(self.tasks, self.dimension, *state[name].shape[1:])
            state[name] = heads[list(tasks)].flatten(0, 1)
        return state


class UserTower(nn.Module):
    """A user's features, each pooled to one vector, through dense layers.

    Args:
        shape: the tower's sizes.

    Raises:
        TablesUnavailable: TorchRec is not installed.
    """

    def __init__(self, shape: TowerShape) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = embedding_tables(shape.tables)
        for weight in self.embeddings.parameters():
            nn.init.normal_(weight, std=ROW_STD)
        self.layers = DenseLayers(shape)

    def forward(self, features: KeyedJaggedTensor) -> Tensor:
        """Encode B users.

        Args:
            features: ids of the shape's features; others are ignored.

        Returns:
            `[B, T, D]` float32 vectors of length 1.
        """
        if features.stride() == 0:
            # TorchRec looks nothing up for nobody; the tables still take part, with gradients of zero.
            weights = torch.stack([weight.sum() for weight in self.embeddings.parameters()])
            return self.encode(weights.new_zeros(0, self.shape.width) + weights.sum())
        pooled = self.embeddings(features)
        return self.encode(torch.cat([pooled[feature] for feature in self.shape.features], dim=1))

    def encode(self, pooled: Tensor) -> Tensor:
        """Encode users whose features were looked up already; see `DenseLayers`."""
        vectors: Tensor = self.layers(pooled)
        return vectors


class ItemTower(UserTower):
    """The same for items, which have one vector for all tasks."""

    def __init__(self, shape: TowerShape) -> None:
        if shape.tasks != 1:
            raise ValueError(f"tasks: expected 1 for items, got {shape.tasks}")
        super().__init__(shape)

    def encode(self, pooled: Tensor) -> Tensor:
        """Encode items whose features were looked up already: `[B, D]` float32 vectors of length 1."""
        return super().encode(pooled)[:, 0]
