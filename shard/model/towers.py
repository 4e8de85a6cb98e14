"""User and item towers: features in, vectors of one space out.

Letters: B users, L history places, F user categories, T tasks, D dimensions, N items, G tag places,
H item categories.
Every index 0 stands for "none" or "unknown", so real rows and codes start at 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

CATEGORY_WIDTH = 8
TAG_WIDTH = 16
ITEM_STD = 0.05


@dataclass(frozen=True, slots=True)
class UserTowerShape:
    """The sizes of a `UserTower`, enough to build one before its weights are loaded.

    Attributes:
        items: items that a history can name.
        categories: number of codes of each categorical feature, the unknown one included.
        width: width of the history embedding.
        hidden: width of the hidden layer.
        dimension: D, width of the vectors.
        tasks: T, vectors per user.
    """

    items: int
    categories: tuple[int, ...]
    width: int = 64
    hidden: int = 128
    dimension: int = 64
    tasks: int = 1


class UserTower(nn.Module):
    """A user as the mean of the items in their history and a few categories, through one hidden layer.

    Args:
        shape: the tower's sizes.
    """

    def __init__(self, shape: UserTowerShape) -> None:
        super().__init__()
        self.shape = shape
        self.history = nn.EmbeddingBag(shape.items + 1, shape.width, mode="mean", padding_idx=0)
        self.categories = nn.ModuleList(nn.Embedding(size, CATEGORY_WIDTH) for size in shape.categories)
        self.layers = nn.Sequential(
            nn.Linear(shape.width + CATEGORY_WIDTH * len(shape.categories), shape.hidden),
            nn.ReLU(),
            nn.Linear(shape.hidden, shape.tasks * shape.dimension),
        )

    def forward(self, history: Tensor, categories: Tensor) -> Tensor:
        """Encode users.

        Args:
            history: `[B, L]` int64, row + 1 of each item in the user's history; 0 pads and does not count.
            categories: `[B, F]` int64 codes; 0 is unknown.

        Returns:
            `[B, T, D]` float32 vectors of length 1.
        """
        parts = [self.history(history)]
        parts += [embedding(categories[:, f]) for f, embedding in enumerate(self.categories)]
        vectors = self.layers(torch.cat(parts, dim=1))
        return functional.normalize(vectors.view(-1, self.shape.tasks, self.shape.dimension), dim=2)


class ItemTower(nn.Module):
    """An item as its own embedding, the mean of its tags and a few categories, through one hidden layer.

    Args:
        items: number of items.
        tags: number of tag codes, the padding 0 included.
        categories: number of codes of each categorical feature, the unknown one included.
        width: width of the items' own embedding.
        hidden: width of the hidden layer.
        dimension: D, width of the vectors.
    """

    def __init__(
        self,
        items: int,
        tags: int,
        categories: Sequence[int],
        *,
        width: int = 64,
        hidden: int = 128,
        dimension: int = 64,
    ) -> None:
        super().__init__()
        self.items = nn.Embedding(items, width)
        # Small at first, so that an item with few examples is placed by its tags and categories.
        nn.init.normal_(self.items.weight, std=ITEM_STD)
        self.tags = nn.EmbeddingBag(tags, TAG_WIDTH, mode="mean", padding_idx=0)
        self.categories = nn.ModuleList(nn.Embedding(size, CATEGORY_WIDTH) for size in categories)
        self.layers = nn.Sequential(
            nn.Linear(width + TAG_WIDTH + CATEGORY_WIDTH * len(categories), hidden),
            nn.ReLU(),
            nn.Linear(hidden, dimension),
        )

    def forward(self, items: Tensor, tags: Tensor, categories: Tensor) -> Tensor:
        """Encode items.

        Args:
            items: `[N]` int64 rows.
            tags: `[N, G]` int64 codes; 0 pads and is left out of the mean.
            categories: `[N, H]` int64 codes; 0 is unknown.

        Returns:
            `[N, D]` float32 vectors of length 1.
        """
        parts = [self.items(items), self.tags(tags)]
        parts += [embedding(categories[:, h]) for h, embedding in enumerate(self.categories)]
        return functional.normalize(self.layers(torch.cat(parts, dim=1)), dim=1)
