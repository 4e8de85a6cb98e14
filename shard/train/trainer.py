"""Trains a joint model on batches of requests, and can be stopped and continued at any step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from silverray.shard.towers.tables import check_ids
from silverray.shard.towers.two_tower import TwoTower
from silverray.shard.train.batch import Batch
from silverray.shard.train.checkpoint import CheckpointError
from silverray.shard.train.joint import JointModel
from silverray.shard.train.parts import part_of, thinned
from silverray.shard.train.workers import Alone, Workers

Batches = Callable[[int, int], Iterable[Batch]]
"""Gives the batches of an epoch (first argument) from a request on (second argument), as `RequestLoader.batches`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train.

    Attributes:
        epochs: passes over the batches.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        dropout: of user features, the fraction of ids that is left out at random.
        weights: of objectives, by name; 1 where there is none.
        seed: of all that is random in a step, together with the step's number.
    """

    epochs: int
    learning_rate: float
    weight_decay: float
    dropout: Mapping[str, float]
    weights: Mapping[str, float]
    seed: int


class Step(NamedTuple):
    """A step of training that is done.

    Attributes:
        number: steps done, over all epochs.
        epoch: from 0.
        position: requests of the epoch that are done.
        losses: each objective's mean over the batch.
    """

    number: int
    epoch: int
    position: int
    losses: dict[str, float]


class Trainer:
    """A training run.

    Every process reads the same batches and takes its part of the requests; the items of all are candidates for
    each, and a loss is divided by the number of examples of the whole batch. So a run on N processes computes what a
    run on one does, up to rounding.

    Args:
        model: the towers.
        objectives: modules that satisfy `Objective`, by name.
        batches: the data.
        recipe: how to train.
        workers: the processes that train together.
    """

    def __init__(
        self,
        model: TwoTower,
        objectives: Mapping[str, nn.Module],
        batches: Batches,
        recipe: Recipe,
        workers: Workers | None = None,
    ) -> None:
        self.model = model
        self._workers = workers or Alone()
        self._joint = JointModel(model, objectives, self._workers.gather)
        self._shared = self._workers.join(self._joint)
        self._batches = batches
        self._recipe = recipe
        self._weights = torch.tensor([recipe.weights.get(name, 1.0) for name in objectives])
        self._optimizer = torch.optim.AdamW(
            self._joint.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self._number = self._epoch = self._position = 0

    def steps(self) -> Iterator[Step]:
        """Train to the end, one step at a time; stopping in between leaves a state that can be continued.

        Raises:
            ValueError: a batch has an id that is no row of its table, or an epoch has no batch.
        """
        self._joint.train()
        while self._epoch < self._recipe.epochs:
            for batch in self._batches(self._epoch, self._position):
                # The caller's random state stays as it was.
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(_mixed(self._recipe.seed, self._number))
                    losses = self._learn(batch)
                self._number += 1
                self._position += len(batch.times)
                yield Step(self._number, self._epoch, self._position, losses)
            if self._position == 0:
                raise ValueError(f"batches: expected at least one in epoch {self._epoch}, got none")
            self._epoch, self._position = self._epoch + 1, 0

    def state(self) -> dict[str, Any]:
        """All that decides how the run goes on; what is random in a step hangs on the seed and its number alone."""
        return {
            "joint": self._joint.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "place": {"number": self._number, "epoch": self._epoch, "position": self._position},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of a run with the same model, data and recipe.

        Raises:
            CheckpointError: it is of another model.
        """
        try:
            self._joint.load_state_dict(state["joint"])
            self._optimizer.load_state_dict(state["optimizer"])
            place = state["place"]
            self._number, self._epoch, self._position = place["number"], place["epoch"], place["position"]
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"checkpoint: expected one of this model, got another: {error}") from error

    def _learn(self, batch: Batch) -> dict[str, float]:
        check_ids(self.model.users.shape.tables, batch.user)
        check_ids(self.model.items.shape.tables, batch.items)
        # The whole batch is thinned, in every process alike, before it is cut.
        batch = batch._replace(user=thinned(batch.user, self._recipe.dropout))
        self._optimizer.zero_grad()
        losses_K2: Tensor = self._shared(part_of(batch, self._workers.rank, self._workers.size))
        totals_K, examples_K = self._workers.sum(losses_K2.detach()).unbind(dim=1)
        examples_K = examples_K.clamp(min=1)
        # Gradients are means over the processes, hence the factor.
        scale_K = self._weights * self._workers.size / examples_K
        torch.autograd.backward((losses_K2[:, 0] * scale_K).sum())
        self._optimizer.step()
        return dict(zip(self._joint.objectives, (totals_K / examples_K).tolist(), strict=True))


def _mixed(seed: int, step: int) -> int:
    """One seed of two numbers; PyTorch's generator looks at no more than 32 bits."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
