"""The re-ranking stage: whole lists, scored by a set-wise scorer, valued and put into their new order.

Letters: B requests, N places of a list, T tasks, D dimensions, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from silverray.kernels.topk import top_k
from silverray.shard.model.scorers import Scorer, bounded
from silverray.shard.value.inputs import Values
from silverray.shard.value.valuer import Valuation, evaluated


class Reranked(NamedTuple):
    """Lists in their new order.

    Attributes:
        places: `[B, N]` int64, where each item stood, by (value desc, key asc); -1 where there are no more.
        scores: `[B, N]` float32 values, in the same order; -inf where there are no more.
        predictions: `[B, N, T]` float32 of the items where they stood; undefined where there is none.
    """

    places: Tensor
    scores: Tensor
    predictions: Tensor


class Reranking(nn.Module):
    """Ranks each list by itself, up to rounding: what else is in the batch and how far it is padded changes nothing.

    Args:
        scorer: a set-wise scorer, or any other.
    """

    def __init__(self, scorer: Scorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(
        self,
        users: Tensor,
        items: Tensor,
        features: Tensor,
        keys: Tensor,
        valid: Tensor,
        valuations: Sequence[Valuation],
        fields: Sequence[Mapping[str, Values]],
    ) -> Reranked:
        """Rank lists anew.

        Args:
            users: `[B, T, D]` float32.
            items: `[B, N, D]` float32 vectors of the items.
            features: `[B, N, F]` float32, what the scorer reads of them.
            keys: `[B, N]` int64.
            valid: `[B, N]` bool, false for places without an item.
            valuations: of all requests, each in one.
            fields: for each valuation what its formula reads of the items of its requests, `[R, N]` or `[R, N, G]`.
        """
        predictions = bounded(self.scorer(users, items, features, valid))
        values = predictions.new_empty(valid.shape)
        for valuation, its in zip(valuations, fields, strict=True):
            rows = slice(None) if valuation.rows is None else valuation.rows
            values[rows] = evaluated(valuation, predictions[rows], its)
        best = top_k(values.masked_fill(~valid, -torch.inf), keys, keys.shape[1])
        return Reranked(best.places, best.scores, predictions)
