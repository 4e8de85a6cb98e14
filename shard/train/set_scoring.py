"""The objective of a set-wise scorer: to rank what users took above the others of a list.

Letters: R requests, P positive items of a request, C sampled items, S = P + C items of a set, J items of a batch, T
    tasks, D dimensions, U pairs of a request and a positive item.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from silverray.shard.towers.two_tower import Encoded
from silverray.shard.train.batch import Batch
from silverray.shard.train.objectives import Candidates, Loss
from silverray.shard.train.scoring import Scoring

PAIRS = 1 << 22
"""Most pairs of items, of all sets together, that a scorer judges at a time."""


class SetScoring(Scoring):
    """Cross-entropy over a set for each request: its positive items, of any task, and C items drawn from the batch's.

    The set stands for the list that a user would see. With s the scorer's scores / temperature of the set, each item
    of it once, and n(i) the request's positive impressions of item i for a task:

        loss = sum_i n(i) (log sum_j exp(s(j) - log Q(j)) - (s(i) - log Q(i)))

    with the correction of `SampledSoftmax`; if s hung on no other item, this would be its loss. Of a request with more
    than C positive items, C at random count. The requests of a large batch go through the scorer in parts, and each
    part once more for its gradient, so that memory does not grow with the batch.
    """

    def forward(self, encoded: Encoded, batch: Batch, item_ids: Tensor, candidates: Candidates) -> Loss:
        """See the class; examples are the positive impressions of every task."""
        users_RTD, drawn_C = encoded.users.detach(), self.draw(candidates)
        taken = _Taken.of(batch, torch.searchsorted(candidates.ids, item_ids), len(candidates.ids), self.sampled)
        # All parameters take part, as processes that wait for each other's gradients need, also where there is no set.
        total = sum((weight.sum() * 0.0 for weight in self.scorer.parameters()), users_RTD.new_zeros(()))
        parts = list(taken.parts(len(drawn_C)))
        judge = self._loss if len(parts) == 1 else partial(checkpoint, self._loss, use_reentrant=False)
        for part in parts:
            own_RP = part.places
            places_RS = torch.cat([own_RP, drawn_C.expand(len(own_RP), -1)], dim=1)
            drawn_too = (own_RP[:, :, None] == drawn_C).any(dim=1)
            valid_RS = torch.cat([own_RP >= 0, ~drawn_too], dim=1)
            total = total + judge(users_RTD[part.request], places_RS.clamp(min=0), valid_RS, part.counts, candidates)
        return Loss(total, taken.counts.sum())

    def _loss(
        self, users_RTD: Tensor, places_RS: Tensor, valid_RS: Tensor, counts_RPT: Tensor, candidates: Candidates
    ) -> Tensor:
        ids_RS = candidates.ids[places_RS]
        scores_RST = self.scorer(users_RTD, candidates.vectors.detach()[places_RS], self.features[ids_RS], valid_RS)
        corrected_RST = scores_RST / self.temperature - self.log_q(ids_RS, candidates)[:, :, None]
        logs_RST = corrected_RST.masked_fill(~valid_RS[:, :, None], -torch.inf).log_softmax(dim=1)
        taken_RPT = logs_RST[:, : counts_RPT.shape[1]]
        return -torch.where(counts_RPT > 0, counts_RPT * taken_RPT, 0.0).sum()


class _Taken(NamedTuple):
    """What requests took, those with most positive items first; requests that took nothing are left out.

    Attributes:
        request: `[R]` int64, which ones.
        places: `[R, P]` int64, their positive items' places among the candidates, each once; -1 behind the last.
        counts: `[R, P, T]` float32 positive impressions of each.
    """

    request: Tensor
    places: Tensor
    counts: Tensor

    @classmethod
    def of(cls, batch: Batch, places: Tensor, candidates: int, most: int) -> Self:
        """Gather a batch's positive impressions, of `places` `[I]`; at most `most` items of a request, at random."""
        positive_I = (batch.labels > 0).any(dim=1)
        pair_U, of_pair = torch.unique(batch.request[positive_I] * candidates + places[positive_I], return_inverse=True)
        count_UT = torch.zeros(len(pair_U), batch.labels.shape[1])
        count_UT.index_add_(0, of_pair, (batch.labels[positive_I] > 0).float())
        shuffled_U = torch.randperm(len(pair_U))
        pair_U, count_UT = pair_U[shuffled_U], count_UT[shuffled_U]
        request_R, row_U, length_R = torch.unique(pair_U // candidates, return_inverse=True, return_counts=True)
        # The place of each pair within its request.
        order_U = row_U.argsort(stable=True)
        first_R = length_R.cumsum(0) - length_R
        column_U = torch.empty_like(row_U)
        column_U[order_U] = torch.arange(len(row_U)) - first_R[row_U[order_U]]
        kept = column_U < most
        row_U, column_U, pair_U, count_UT = row_U[kept], column_U[kept], pair_U[kept], count_UT[kept]
        width = min(most, int(length_R.max())) if len(length_R) else 0
        table_RP = torch.full((len(request_R), width), -1)
        table_RP[row_U, column_U] = pair_U % candidates
        counts_RPT = torch.zeros(len(request_R), width, count_UT.shape[1])
        counts_RPT[row_U, column_U] = count_UT
        longest = length_R.argsort(descending=True, stable=True)
        return cls(request_R[longest], table_RP[longest], counts_RPT[longest])

    def parts(self, sampled: int) -> Iterator[Self]:
        """Parts whose sets, with so many sampled items each, have a bounded number of pairs."""
        start = 0
        while start < len(self.request):
            width = int((self.places[start] >= 0).sum())
            rows = slice(start, start + max(1, PAIRS // (width + sampled) ** 2))
            yield self._replace(
                request=self.request[rows], places=self.places[rows, :width], counts=self.counts[rows, :width]
            )
            start = rows.stop
