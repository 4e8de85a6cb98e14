"""Trains a user and an item tower with a sampled softmax over the items of each batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from silverray.shard.model.towers import ItemTower, UserTower, UserTowerShape
from silverray.shard.train.interactions import Interactions, padded_histories
from silverray.shard.train.recall import popularity_recall_at, recall_at

RECALL_PLACES = 20


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Interactions and what is known of users and items, already as codes (0 is unknown or none).

    Attributes:
        interactions: the likes; their rows point into the arrays below.
        user_categories: `[U, F]` int64.
        user_category_sizes: number of codes of each of the F features.
        item_tags: `[N, G]` int64, padded with 0.
        tag_size: number of tag codes.
        item_categories: `[N, H]` int64.
        item_category_sizes: number of codes of each of the H features.
    """

    interactions: Interactions
    user_categories: NDArray[np.int64]
    user_category_sizes: tuple[int, ...]
    item_tags: NDArray[np.int64]
    tag_size: int
    item_categories: NDArray[np.int64]
    item_category_sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How to train.

    Attributes:
        dimension: D, width of the vectors.
        history_length: latest items that describe a user.
        history_dropout: fraction of a history that is left out at random in training.
        temperature: cosines are divided by it before the softmax.
        epochs: passes over the training likes.
        batch: likes in a step; each is a negative for the others.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        held_out: last fraction of the likes, never trained on.
        seed: of weights, order and dropout.
    """

    dimension: int = 64
    history_length: int = 50
    history_dropout: float = 0.3
    temperature: float = 0.1
    epochs: int = 6
    batch: int = 1024
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2
    held_out: float = 0.1
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """Trained towers and how well they do.

    Attributes:
        user_tower: in evaluation mode.
        item_vectors: `[N, D]` float32, the item tower's output for every item.
        trained: likes trained on; the first ones by time.
        held_out: likes held out.
        recall: recall@`RECALL_PLACES` of the held-out likes, each asked with what its user liked before.
        popularity_recall: the same for the most liked items of the training part.
        seconds: wall time.
    """

    user_tower: UserTower
    item_vectors: NDArray[np.float32]
    trained: int
    held_out: int
    recall: float
    popularity_recall: float
    seconds: float


def train(
    data: TrainingData, config: TrainingConfig, progress: Callable[[int, int], None] | None = None
) -> TrainingResult:
    """Train both towers and measure them on the likes that were held out by time.

    Args:
        data: what to learn from.
        config: how.
        progress: called with steps done and steps in all.

    Returns:
        The towers and their recall. Same data, configuration, machine and number of threads: same result.

    Raises:
        ValueError: no like is left to train on.
    """
    started = time.perf_counter()
    # The caller's random state stays as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        run = _Run(data, config)
        run.learn(progress)
    return run.result(started)


class _Run:
    def __init__(self, data: TrainingData, config: TrainingConfig) -> None:
        self.config = config
        self.interactions = data.interactions
        self.trained = data.interactions.split_row(config.held_out)
        if self.trained == 0:
            raise ValueError("interactions: expected some likes before the time of the held-out ones")
        self.earlier = data.interactions.earlier()
        self.histories = torch.from_numpy(padded_histories(self.earlier, config.history_length))
        self.users = torch.from_numpy(data.interactions.users)
        self.items = torch.from_numpy(data.interactions.items)
        self.user_categories = torch.from_numpy(data.user_categories)
        self.item_tags = torch.from_numpy(data.item_tags)
        self.item_categories = torch.from_numpy(data.item_categories)
        items = len(data.item_tags)
        self.counts = np.bincount(data.interactions.items[: self.trained], minlength=items)
        self.log_q = torch.from_numpy(self.counts / self.trained).clamp(min=1e-9).log().float()
        self.user_tower = UserTower(
            UserTowerShape(items, data.user_category_sizes, dimension=config.dimension),
        )
        self.item_tower = ItemTower(items, data.tag_size, data.item_category_sizes, dimension=config.dimension)

    def learn(self, progress: Callable[[int, int], None] | None) -> None:
        config = self.config
        parameters = [*self.user_tower.parameters(), *self.item_tower.parameters()]
        optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
        batches = [
            rows for _ in range(config.epochs) for rows in torch.split(torch.randperm(self.trained), config.batch)
        ]
        for step, rows in enumerate(batches, start=1):
            optimizer.zero_grad()
            torch.autograd.backward(self._loss(rows))
            optimizer.step()
            if progress is not None:
                progress(step, len(batches))

    def _loss(self, rows: Tensor) -> Tensor:
        """Cross-entropy of each user's item among the batch's, corrected for how often items are drawn."""
        items = self.items[rows]
        history = self.histories[rows]
        history = history.masked_fill(torch.rand(history.shape) < self.config.history_dropout, 0)
        users_BD = self.user_tower(history, self.user_categories[self.users[rows]])[:, 0]
        items_BD = self.item_tower(items, self.item_tags[items], self.item_categories[items])
        logits_BB = users_BD @ items_BD.T / self.config.temperature - self.log_q[items]
        # The same item on another row is not a negative.
        repeated = (items[:, None] == items) & ~torch.eye(len(rows), dtype=torch.bool)
        return functional.cross_entropy(logits_BB.masked_fill(repeated, -torch.inf), torch.arange(len(rows)))

    @torch.inference_mode()
    def result(self, started: float) -> TrainingResult:
        self.user_tower.eval()
        self.item_tower.eval()
        vectors_ND = self.item_tower(torch.arange(len(self.item_tags)), self.item_tags, self.item_categories)
        held = slice(self.trained, None)
        users_BD = self.user_tower(self.histories[held], self.user_categories[self.users[held]])[:, 0]
        liked, seen = self.interactions.items[held], self.earlier[held]
        return TrainingResult(
            user_tower=self.user_tower,
            item_vectors=vectors_ND.numpy(),
            trained=self.trained,
            held_out=len(liked),
            recall=recall_at(RECALL_PLACES, (users_BD @ vectors_ND.T).numpy(), liked, seen),
            popularity_recall=popularity_recall_at(RECALL_PLACES, self.counts, liked, seen),
            seconds=time.perf_counter() - started,
        )
