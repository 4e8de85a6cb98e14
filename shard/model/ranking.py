"""The ranking stage: candidates of all tasks, scored for every task, valued, and the best of them.

Letters: B requests, T tasks, N slots found by a task, K = T N candidates, D dimensions, F features, k items of an
    answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from silverray.kernels.topk import top_k
from silverray.kernels.union import United, unite
from silverray.shard.index.inverted_lists import Lists
from silverray.shard.model.item_features import ItemFeatures
from silverray.shard.model.scorers import Scorer
from silverray.shard.value.inputs import gather_fields
from silverray.shard.value.valuer import Valuation, valued


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


class Ranking(nn.Module):
    """Ranks the items of one shard.

    Its three steps are methods, so that each can be timed; `forward` runs them all. Items are judged one by one: what
    the others of a request are, which batch it shares and where else items lie changes nothing, up to rounding.

    Args:
        lists: the items.
        tasks: T.
        scorer: a pointwise scorer.
        features: what it reads of the items' fields.

    Raises:
        ValueError: the scorer is not pointwise.
    """

    def __init__(self, lists: Lists, tasks: int, scorer: Scorer, features: ItemFeatures) -> None:
        super().__init__()
        if not scorer.pointwise:
            raise ValueError(f"scorer: expected a pointwise one, got {type(scorer).__name__}: it needs whole lists")
        self.lists = lists
        self.tasks = tasks
        self.scorer = scorer
        self.features = features

    def forward(
        self,
        users: Tensor,
        slots: Tensor,
        scores: Tensor,
        valuations: Sequence[Valuation],
        wanted: Tensor,
        k: int,
        quotas: Sequence[int] = (),
    ) -> Ranked:
        """Rank what the tasks have found.

        Args:
            users: `[B, T, D]` float32.
            slots: `[B, T, N]` int64, each at most once for a task; -1 where there are no more.
            scores: `[B, T, N]` float32 of them.
            valuations: of all requests, each in one.
            wanted: `[B]` int64 number of items wanted by each request.
            k: the largest of them.
            quotas: for each task how many of its best predictions are wanted as well; each request then gets
                k + sum(quotas) places. Empty for none.
        """
        candidates = unite(slots, scores)
        predictions = self.predict(users, candidates.slots)
        values = self.value(predictions, candidates.slots, valuations)
        return self.select(candidates, predictions, values, wanted, k, quotas)

    def predict(self, users: Tensor, slots: Tensor) -> Tensor:
        """Predictions `[B, K, T]` float32 for slots `[B, K]`; undefined where a slot is -1."""
        return self.scorer.score_slots(users, self.lists.vectors, slots, partial(self.features, self.lists.columns))

    def value(self, predictions: Tensor, slots: Tensor, valuations: Sequence[Valuation]) -> Tensor:
        """One finite value `[B, K]` float32 for each candidate."""
        if len(valuations) == 1 and valuations[0].rows is None:
            return self._value(predictions, slots, valuations[0])
        values = predictions.new_empty(slots.shape)
        for valuation in valuations:
            rows = valuation.rows
            values[rows] = self._value(predictions[rows], slots[rows], valuation)
        return values

    def select(
        self,
        candidates: United,
        predictions: Tensor,
        values: Tensor,
        wanted: Tensor,
        k: int,
        quotas: Sequence[int] = (),
    ) -> Ranked:
        """The candidates with the highest value, and the best predictions that quotas ask for; see `forward`."""
        slots = candidates.slots
        if slots.shape[1] == 0:
            return _nothing(len(slots), k + sum(quotas), predictions)
        keys = self.lists.keys[torch.where(slots >= 0, slots, 0)]
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

    def _value(self, predictions: Tensor, slots: Tensor, valuation: Valuation) -> Tensor:
        return valued(valuation, predictions, gather_fields(self.lists.columns, slots, valuation.fields))


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
