"""What a model is trained for. Each objective is a module; all of a model's are trained jointly.

An objective of your own (say a learned scorer on top of the towers) is an `nn.Module` with the `forward` of
`Objective`: it gets the encoded requests, the batch with the raw features and labels, and the items of the whole batch,
and returns a sum over its examples and their number. Its parameters are trained, saved and shared with the towers'.

Letters: R requests, I impressions, J items of a batch, P positive impressions, T tasks, D dimensions.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from silverray.shard.towers.two_tower import Encoded
from silverray.shard.train.batch import Batch


class Candidates(NamedTuple):
    """The different items of a batch, over all processes that train together.

    Attributes:
        ids: `[J]` int64, ascending, each once.
        vectors: `[J, D]` float32.
        drawn: impressions that they were drawn from.
    """

    ids: Tensor
    vectors: Tensor
    drawn: int


class Loss(NamedTuple):
    """A loss before it is averaged, so that parts of a batch add up to the whole.

    Attributes:
        total: scalar sum over the examples.
        examples: scalar float32, how many they are.
    """

    total: Tensor
    examples: Tensor


class Objective(Protocol):
    """One of the things that a model is trained for."""

    def forward(self, encoded: Encoded, batch: Batch, item_ids: Tensor, candidates: Candidates) -> Loss:
        """Judge a batch.

        Args:
            encoded: the batch through the towers.
            batch: its features and labels.
            item_ids: `[I]` int64, the item of each impression.
            candidates: the batch's items.
        """
        ...


def log_chance_missed(shares: Tensor) -> Tensor:
    """Log of the chance that one impression is not of an item: `[N]` float64 from each item's share of impressions."""
    # At least one impression in 2^40, so that an item never counted has a finite correction.
    return torch.log1p(-shares.double().clamp(min=2.0**-40, max=1 - 2.0**-40))


class SampledSoftmax(nn.Module):
    """Cross-entropy of a positive impression's item among the items of the batch (sampled softmax).

    For an impression of item i in request r, with s = cosine / temperature:

        loss = log sum_j exp(s(r, j) - log Q(j)) - (s(r, i) - log Q(i))

    An item counts once however often the batch shows it, so a positive is never its own negative. Q(j) is therefore the
    chance that the batch holds j at all, `1 - (1 - q)^n` with q the item's share of all impressions and n the
    batch's impressions: for rare items n q, the usual correction. The log-sum is computed once a request.

    Args:
        task: column of the labels, and head of the user tower.
        temperature: cosines are divided by it.
        shares: `[N]` float64, each item id's share of all impressions (see `ItemCounts`).

    Source: bias correction by log Q, Bengio & Senecal 2008, and Yi et al., RecSys 2019, for in-batch negatives.
    """

    log_missed: Tensor

    def __init__(self, task: int, temperature: float, shares: Tensor) -> None:
        super().__init__()
        self.task = task
        self.temperature = temperature
        self.register_buffer("log_missed", log_chance_missed(shares))

    def forward(self, encoded: Encoded, batch: Batch, item_ids: Tensor, candidates: Candidates) -> Loss:
        """See the class; examples are the impressions whose label is above 0."""
        log_q_J = torch.log(-torch.expm1(candidates.drawn * self.log_missed[candidates.ids])).float()
        scores_RJ = encoded.users[:, self.task] @ candidates.vectors.T / self.temperature - log_q_J
        positive_P = torch.nonzero(batch.labels[:, self.task] > 0)[:, 0]
        request_P = batch.request[positive_P]
        places_P = torch.searchsorted(candidates.ids, item_ids[positive_P])
        losses_P = scores_RJ.logsumexp(dim=1)[request_P] - scores_RJ[request_P, places_P]
        return Loss(losses_P.sum(), losses_P.new_tensor(len(positive_P)))


class BinaryCrossEntropy(nn.Module):
    """Cross-entropy of every impression's label with a logistic function of its cosine; scale and bias are learned.

    Args:
        task: column of the labels, and head of the user tower.
    """

    def __init__(self, task: int) -> None:
        super().__init__()
        self.task = task
        self.scale = nn.Parameter(torch.tensor(5.0))
        self.bias = nn.Parameter(torch.tensor(0.0))

    def forward(self, encoded: Encoded, batch: Batch, item_ids: Tensor, candidates: Candidates) -> Loss:
        """See the class; examples are all impressions."""
        logits_I = self.scale * encoded.cosines[:, self.task] + self.bias
        total = functional.binary_cross_entropy_with_logits(logits_I, batch.labels[:, self.task], reduction="sum")
        return Loss(total, total.new_tensor(len(logits_I)))
