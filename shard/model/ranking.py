"""The parts of the ranking stage: candidates are scored for every task and valued, and the best of them are selected.

Items are ranked one by one: what the others of a request are, which batch it shares and where else items lie changes
nothing, up to rounding.

Letters: B requests, T tasks, K candidates, D dimensions, k items of an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from silverray.kernels.topk import top_k
from silverray.kernels.union import United
from silverray.shard.index.inverted_lists import InvertedLists
from silverray.shard.model.item_features import ItemFeatures
from silverray.shard.model.scorers import DotProduct, Scorer
from silverray.shard.value.inputs import gather_fields
from silverray.shard.value.valuer import Valuation, evaluated
from silverray.shard.value.variants import ValueModels

PLACES = 1 << 18
"""Most candidates that are ranked together; this bounds the memory that they need."""
SCORED = 1 << 12
"""Most pairs of candidate and task that a thread of a CPU scores at a time: their numbers then stay in its cache."""


class Ranked(NamedTuple):
    """The best items of each request.

    Attributes:
        slots: `[B, k]` int64, by (value desc, key asc); -1 where there are no more.
        scores: `[B, k]` float32 values; -inf where there are no more.
        predictions: `[B, k, T]` float32; undefined where there are no more.
        found: `[B, k, T]` float32, the score with which each task found the item; -inf where it did not.
    """

    slots: Tensor
    scores: Tensor
    predictions: Tensor
    found: Tensor


class Scoring(nn.Module):
    """Predicts what a user makes of candidates.

    Args:
        lists: the items.
        scorer: a pointwise scorer.
        features: what it reads of the items' fields.

    Raises:
        ValueError: the scorer is not pointwise.
    """

    def __init__(self, lists: InvertedLists, scorer: Scorer, features: ItemFeatures) -> None:
        super().__init__()
        if not scorer.pointwise:
            raise ValueError(f"scorer: expected a pointwise one, got {type(scorer).__name__}: it needs whole lists")
        self.lists = lists
        self.scorer = scorer
        self.features = features

    def forward(self, users: Tensor, slots: Tensor) -> Tensor:
        """Predict, so many candidates at a time as stay in a CPU's caches; a compiled graph takes all at once.

        Args:
            users: `[B, T, D]` float32.
            slots: `[B, K]` int64 candidates; -1 where there is none.

        Returns:
            `[B, K, T]` float32, the same bit for bit however they are cut; undefined where there is no candidate.
        """
        if torch.compiler.is_compiling() or slots.numel() <= (together := self._together(users)):
            return self._predict(users, slots)
        columns = max(1, min(together, slots.shape[1]))
        rows = max(1, together // columns)
        return torch.cat(
            [
                torch.cat([self._predict(some, part) for part in torch.split(of_some, columns, dim=1)], dim=1)
                for some, of_some in zip(torch.split(users, rows), torch.split(slots, rows), strict=True)
            ]
        )

    def _predict(self, users: Tensor, slots: Tensor) -> Tensor:
        return self.scorer.score_slots(users, self.lists.vectors, slots, partial(self.features, self.lists.columns))

    def _together(self, users: Tensor) -> int:
        """How many candidates are scored at a time."""
        if users.device.type != "cpu" or isinstance(self.scorer, DotProduct):  # which copies nothing
            return PLACES
        return max(1, SCORED * torch.get_num_threads() // users.shape[1])


class Formulas(nn.Module):
    """Makes one value of a candidate's predictions, by the formula that its request has chosen.

    Args:
        lists: the items, of which formulas read fields.
        models: the formulas; None where the mean over the tasks is all that there is.
    """

    def __init__(self, lists: InvertedLists, models: ValueModels | None) -> None:
        super().__init__()
        self.lists = lists
        self.models = models

    def forward(self, predictions: Tensor, slots: Tensor, valuations: Sequence[Valuation]) -> Tensor:
        """Evaluate.

        Args:
            predictions: `[B, K, T]` float32.
            slots: `[B, K]` int64 candidates; -1 where there is none.
            valuations: of all requests, each in one.

        Returns:
            `[B, K]` float32, finite.
        """
        if len(valuations) == 1 and valuations[0].rows is None:
            return self._evaluate(predictions, slots, valuations[0])
        values = predictions.new_empty(slots.shape)
        for valuation in valuations:
            rows = valuation.rows
            values[rows] = self._evaluate(predictions[rows], slots[rows], valuation)
        return values

    def _evaluate(self, predictions: Tensor, slots: Tensor, valuation: Valuation) -> Tensor:
        return evaluated(valuation, predictions, gather_fields(self.lists.columns, slots, valuation.fields))


def select(
    item_keys: Tensor,
    candidates: United,
    predictions: Tensor,
    values: Tensor,
    wanted: Tensor,
    k: int,
    quotas: Sequence[int] = (),
) -> Ranked:
    """The candidates with the highest value, and the best predictions that quotas ask for.

    Args:
        item_keys: `[N]` int64, those of the shard's slots.
        candidates: K of each request.
        predictions: `[B, K, T]` float32.
        values: `[B, K]` float32.
        wanted: `[B]` int64 number of items wanted by each request.
        k: the largest of them.
        quotas: for each task how many of its best predictions are wanted as well; each request then gets
            k + sum(quotas) places. Empty for none.
    """
    slots = candidates.slots
    if slots.shape[1] == 0:
        return _nothing(len(slots), k + sum(quotas), predictions)
    keys = item_keys[torch.where(slots >= 0, slots, 0)]
    values = values.masked_fill(slots < 0, -torch.inf)
    if any(quotas):
        values = values.masked_fill(~_kept(slots, keys, predictions, values, wanted, k, quotas), -torch.inf)
    best = top_k(values, keys, k + sum(quotas))
    chosen = best.places.clamp(min=0)
    tasks = chosen[:, :, None].expand(-1, -1, predictions.shape[2])
    return Ranked(
        torch.where(best.places >= 0, slots.gather(1, chosen), -1),
        best.scores,
        predictions.gather(1, tasks),
        candidates.found.gather(1, tasks),
    )


def _nothing(batch: int, k: int, predictions: Tensor) -> Ranked:
    """The best of no candidates."""
    none = predictions.new_full((batch, k, predictions.shape[2]), -torch.inf)
    slots = torch.full((batch, k), -1, dtype=torch.int64, device=predictions.device)
    return Ranked(slots, none[:, :, 0], torch.zeros_like(none), none)


def _kept(
    slots: Tensor, keys: Tensor, predictions: Tensor, values: Tensor, wanted: Tensor, k: int, quotas: Sequence[int]
) -> Tensor:
    """`[B, K]` bool: the candidates that are wanted for their value or by a quota."""
    best = top_k(values, keys, k).places
    within = torch.arange(k, device=slots.device) < wanted[:, None]
    lists = [torch.where(within, best, -1)]
    for task, count in enumerate(quotas):
        scores = predictions[:, :, task].masked_fill(slots < 0, -torch.inf)
        lists.append(top_k(scores, keys, count).places)
    places = torch.cat(lists, dim=1)
    kept = torch.zeros(len(slots), slots.shape[1] + 1, dtype=torch.bool, device=slots.device)
    return kept.scatter(1, torch.where(places >= 0, places, slots.shape[1]), True)[:, :-1]
