"""The objective of a pointwise scorer: to rank what users took above other items of the batch.

Letters: R requests, I impressions, P positive impressions, C sampled items, T tasks, D dimensions, F features, N items.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from silverray.shard.model.scorers import MixtureOfLogits, Scorer, load_imbalance
from silverray.shard.towers.two_tower import Encoded
from silverray.shard.train.batch import Batch
from silverray.shard.train.objectives import Candidates, Loss, log_chance_missed


class Scoring(nn.Module):
    """What all objectives of scorers have in common.

    A scorer learns on the towers' vectors as they are: no gradient reaches the towers, so what is retrieved does not
    depend on what ranks it.

    Args:
        scorer: of the model's tasks.
        features: `[N, F]` float32, by item id.
        shares: `[N]` float64, each item id's share of all impressions.
        temperature: scores are divided by it.
        sampled: C, items that are drawn of the batch's; all of them where those are fewer.
    """

    log_missed: Tensor
    features: Tensor

    def __init__(self, scorer: Scorer, features: Tensor, shares: Tensor, *, temperature: float, sampled: int) -> None:
        super().__init__()
        self.scorer = scorer
        self.temperature = temperature
        self.sampled = sampled
        self.register_buffer("features", features)
        self.register_buffer("log_missed", log_chance_missed(shares))

    def draw(self, candidates: Candidates) -> Tensor:
        """Places `[C]` of the drawn items among the candidates."""
        return torch.randperm(len(candidates.ids))[: self.sampled]

    def log_q(self, ids: Tensor, candidates: Candidates) -> Tensor:
        """The correction of `SampledSoftmax` for items, float32."""
        return torch.log(-torch.expm1(candidates.drawn * self.log_missed[ids])).float()


class SampledScoring(Scoring):
    """Cross-entropy of a positive impression's item among C items drawn from the batch's, by a scorer, for every task.

    For an impression of item i in request r, with s the scorer's score / temperature and J the drawn items without i:

        loss = log (exp(s(r, i) - log Q(i)) + sum_j exp(s(r, j) - log Q(j))) - (s(r, i) - log Q(i))

    with the correction of `SampledSoftmax`.

    Args:
        scorer: a pointwise scorer of the model's tasks.
        features: as in `Scoring`, like the next three.
        shares: each item's share.
        temperature: of scores.
        sampled: C.
        balance: weight of a mixture's `load_imbalance`, over the sampled pairs.
    """

    def __init__(
        self, scorer: Scorer, features: Tensor, shares: Tensor, *, temperature: float, sampled: int, balance: float
    ) -> None:
        if not scorer.pointwise:
            raise ValueError(f"scorer: expected a pointwise one, got {type(scorer).__name__}")
        super().__init__(scorer, features, shares, temperature=temperature, sampled=sampled)
        self.balance = balance

    def forward(self, encoded: Encoded, batch: Batch, item_ids: Tensor, candidates: Candidates) -> Loss:
        """See the class; examples are the positive impressions of every task."""
        users_RTD, items_ID = encoded.users.detach(), encoded.items.detach()
        drawn_C = self.draw(candidates)
        ids_C, vectors_CD = candidates.ids[drawn_C], candidates.vectors[drawn_C].detach()
        features_CF = self.features[ids_C]
        others_RCT, gates_RCTP = self._scores(users_RTD, vectors_CD[None], features_CF[None])
        others_RCT = others_RCT - self.log_q(ids_C, candidates)[:, None]
        own_I1T, _ = self._scores(users_RTD[batch.request], items_ID[:, None], self.features[item_ids][:, None])
        own_IT = own_I1T[:, 0] - self.log_q(item_ids, candidates)[:, None]
        same_IC = item_ids[:, None] == ids_C
        total, examples = own_IT.new_zeros(()), 0
        for task in range(own_IT.shape[1]):
            positive_P = torch.nonzero(batch.labels[:, task] > 0)[:, 0]
            others_PC = others_RCT[batch.request[positive_P], :, task].masked_fill(same_IC[positive_P], -torch.inf)
            own_P = own_IT[positive_P, task]
            total = total + (torch.cat([own_P[:, None], others_PC], dim=1).logsumexp(dim=1) - own_P).sum()
            examples += len(positive_P)
        if self.balance and gates_RCTP is not None:
            total = total + self.balance * examples * load_imbalance(gates_RCTP.flatten(0, 2))
        return Loss(total, total.new_tensor(examples))

    def _scores(self, users: Tensor, items: Tensor, features: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scores over the temperature, and the weights of a mixture's components."""
        if isinstance(self.scorer, MixtureOfLogits):
            logits, gates = self.scorer.mixture(users, items, features)
            return self.scorer.combine(logits, gates) / self.temperature, gates
        valid = torch.ones(items.shape[:2], dtype=torch.bool)
        return self.scorer(users, items, features, valid) / self.temperature, None
