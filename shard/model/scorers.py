"""OverArch: learned scorers of candidates, on top of the towers' vectors.

A scorer is a module with one contract, whatever it computes:

    scores = scorer(users, items, features, valid)

where `users` is `[B, T, D]` float32, a vector of the user for each task; `items` is `[B, K, D]` float32, the
candidates' vectors from the item cache; `features` is `[B, K, F]` float32 (see `item_features`); `valid` is `[B, K]`
bool, false for places without a candidate; and `scores` is `[B, K, T]` float32, whatever stands in places without one.
A *pointwise* scorer judges each candidate by itself and runs on shards; a set-wise one needs the whole list.

What a learned scorer makes of huge numbers can leave float32, and then be no number at all. `bounded` makes numbers of
that, wherever predictions are used, so that no item is lost and every answer has the same order.

Letters: B requests, K candidates, T tasks, D dimensions, F features, H hidden width, P components.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from silverray.kernels.scores import dot_products

HEADS = 4
"""Attention heads of `SelfAttention`."""
LARGEST_TOKEN = 1e9
"""Numbers by which `SelfAttention` describes a candidate count as this where they are beyond."""
LARGEST = torch.finfo(torch.float32).max
LEAST = 64
"""Rows that are multiplied together at least: of fewer, CPUs add up the products in another order."""


def bounded(scores: Tensor) -> Tensor:
    """Scores within float32: its ends for what is beyond, and its least number for what is none, so that it is last."""
    return scores.nan_to_num(nan=-LARGEST, posinf=LARGEST, neginf=-LARGEST)


class Scorer(nn.Module):
    """What all scorers have in common; see the module's text for `forward`."""

    pointwise: ClassVar[bool] = True

    def forward(self, users: Tensor, items: Tensor, features: Tensor, valid: Tensor) -> Tensor:
        """Score candidates for every task: `[B, K, T]` float32."""
        raise NotImplementedError

    def score_slots(
        self, users: Tensor, vectors: Tensor, slots: Tensor, features: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Score items of the item cache.

        Args:
            users: as above.
            vectors: `[N, D]` float32 or bfloat16, the cache; it may be on the host.
            slots: `[B, K]` int64 places in it; -1 where there is no candidate.
            features: makes those of slots `[B, K]` of 0 or more.

        Returns:
            `[B, K, T]` float32, finite, the same bit for bit on this device whatever other candidates there are, if the
            scorer is pointwise; undefined where there is no candidate.
        """
        count = slots.shape[1]
        if count == 0:  # what is filled up has an item's vector, and a shard may hold no item
            return users.new_zeros(slots.shape[0], 0, users.shape[1])
        if count < LEAST:
            slots = nn.functional.pad(slots, (0, LEAST - count), value=-1)
        valid = slots >= 0
        places = torch.where(valid, slots, 0)
        # Vectors that are kept on the host are gathered there, which waits for the slots.
        flat = vectors.index_select(0, places.flatten().to(vectors.device)).to(users.device)
        items = flat.float().view(*slots.shape, vectors.shape[1])
        scores: Tensor = self(users, items, features(places), valid)
        return bounded(scores[:, :count])


def of_users(layer: nn.Module, users: Tensor) -> Tensor:
    """What a layer makes of users `[B, T, D]`, bit for bit the same whatever other users there are."""
    made: Tensor = layer(nn.functional.pad(users, (0, 0, 0, 0, 0, LEAST)))[: users.shape[0]]
    return made


class DotProduct(Scorer):
    """The inner product of the towers' vectors, bit for bit the score by which candidates were found."""

    def forward(self, users: Tensor, items: Tensor, features: Tensor, valid: Tensor) -> Tensor:
        """See the module's text."""
        slots = torch.arange(valid.numel(), device=valid.device).view(valid.shape)
        # Contiguous: what stands beside parts of wider rows is not the zeros that rows of a cache are filled up with.
        return dot_products(users, items.contiguous().flatten(0, 1), slots)

    def score_slots(
        self, users: Tensor, vectors: Tensor, slots: Tensor, features: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """See `Scorer.score_slots`; nothing is copied out of the cache."""
        if vectors.device != users.device:
            return super().score_slots(users, vectors, slots, features)
        return dot_products(users, vectors, slots)


class MLP(Scorer):
    """A perceptron on user, item, their product and the item's features, added to the inner product:

        h = relu(U u_t + V x + W (u_t * x) + G f + b);  score_t = scale_t <u_t, x> + a_t . relu(M h + c) + d_t

    The first layer is a sum of parts, so that what concerns the user or the item alone is computed once for it. Output
    weights `a` start at zero: an untrained scorer ranks as the inner product does.

    Args:
        tasks: T.
        dimension: D.
        features: F.
        hidden: H, width of both hidden layers.
    """

    def __init__(self, tasks: int, dimension: int, features: int, hidden: int = 64) -> None:
        super().__init__()
        self.user = nn.Linear(dimension, hidden)
        self.item = nn.Linear(dimension, hidden, bias=False)
        self.product = nn.Linear(dimension, hidden, bias=False)
        self.features = nn.Linear(features, hidden, bias=False) if features else None
        self.layer = nn.Linear(hidden, hidden)
        self.heads = nn.Parameter(torch.zeros(tasks, hidden))
        self.scale = nn.Parameter(torch.ones(tasks))
        self.bias = nn.Parameter(torch.zeros(tasks))

    def forward(self, users: Tensor, items: Tensor, features: Tensor, valid: Tensor) -> Tensor:
        """See the module's text."""
        products_BKTD = users[:, None] * items[:, :, None]
        own_BKH = self.item(items)
        if self.features is not None:
            own_BKH = own_BKH + self.features(features)
        hidden = torch.relu(of_users(self.user, users)[:, None] + own_BKH[:, :, None] + self.product(products_BKTD))
        learned_BKT = (torch.relu(self.layer(hidden)) * self.heads).sum(dim=3)
        scores: Tensor = self.scale * products_BKTD.sum(dim=3) + learned_BKT + self.bias
        return scores


class MixtureOfLogits(Scorer):
    """A mixture of low-rank inner products, weighted for each pair of user and item:

        score_t = scale_t sum_p pi_p(u_t, x) l_p;  l = (<u_t, x>, <f_1(u_t), g_1(x)>, ..., <f_P(u_t), g_Q(x)>)

    with linear f and g to `rank` dimensions and length 1. The gate pi is a softmax over the components of a part for
    the user times a part for the item, plus a part for the logits themselves; it starts on the first component, the
    towers' own inner product.

    Args:
        tasks: T.
        dimension: D.
        features: F.
        user_components: low-rank vectors of a user.
        item_components: low-rank vectors of an item; there are P = 1 + user times item components.
        rank: their dimensions.
        hidden: H, width of the gate's hidden layers.

    Source: Zhai et al., Revisiting neural retrieval on accelerators, KDD 2023 (arXiv 2306.04039).
    """

    def __init__(
        self,
        tasks: int,
        dimension: int,
        features: int,
        user_components: int = 4,
        item_components: int = 4,
        rank: int = 32,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        self.rank = rank
        components = 1 + user_components * item_components
        self.user = nn.Linear(dimension, user_components * rank)
        self.item = nn.Linear(dimension + features, item_components * rank)
        self.user_gate = nn.Sequential(nn.Linear(dimension, hidden), nn.SiLU(), nn.Linear(hidden, components))
        self.item_gate = nn.Sequential(
            nn.Linear(dimension + features, hidden), nn.SiLU(), nn.Linear(hidden, components)
        )
        self.logit_gate = nn.Linear(components, components)
        nn.init.zeros_(self.logit_gate.weight)
        with torch.no_grad():
            self.logit_gate.bias.zero_()[0] = 4.0
        self.scale = nn.Parameter(torch.ones(tasks))

    def forward(self, users: Tensor, items: Tensor, features: Tensor, valid: Tensor) -> Tensor:
        """See the module's text."""
        return self.combine(*self.mixture(users, items, features))

    def combine(self, logits: Tensor, gates: Tensor) -> Tensor:
        """The scores `[B, K, T]` of what `mixture` gives."""
        scores: Tensor = self.scale * (gates * logits).sum(dim=3)
        return scores

    def mixture(self, users: Tensor, items: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """The components' logits and their weights, which sum to 1: both `[B, K, T, P]` float32."""
        described_BKE = torch.cat([items, features], dim=2)
        user_BTPR = self._units(of_users(self.user, users))
        item_BKQR = self._units(self.item(described_BKE))
        low_rank = torch.einsum("btpr,bkqr->bktpq", user_BTPR, item_BKQR).flatten(3)
        own = (users[:, None] * items[:, :, None]).sum(dim=3, keepdim=True)
        logits = torch.cat([own, low_rank], dim=3)
        pair = of_users(self.user_gate, users)[:, None] * self.item_gate(described_BKE)[:, :, None]
        return logits, torch.softmax(pair + self.logit_gate(logits), dim=3)

    def _units(self, vectors: Tensor) -> Tensor:
        units: Tensor = nn.functional.normalize(vectors.view(*vectors.shape[:2], -1, self.rank), dim=3)
        return units


def load_imbalance(gates: Tensor) -> Tensor:
    """How unevenly a mixture uses its components: less mutual information between pairs and components is more.

        mean over pairs of H(pi) - H(mean over pairs of pi), in nats; -log P at best, 0 at worst

    Minimising it spreads pairs over the components and lets each pair decide for few of them.

    Args:
        gates: `[n, P]` float32 weights of n pairs, each row summing to 1.

    Returns:
        A scalar, for a training loss.

    Source: Ding and Zhai, Efficient retrieval with learned similarities, WWW 2025 (arXiv 2407.15462).
    """
    return _entropy(gates).mean() - _entropy(gates.mean(dim=0))


def _entropy(weights: Tensor) -> Tensor:
    # The slope of an entropy is infinite at 0, where a softmax may well end.
    return -(weights * weights.clamp(min=1e-9).log()).sum(dim=-1)


class SelfAttention(Scorer):
    """One block of self-attention over the candidates, so that an item's score depends on the others of its list.

    A candidate is the sum of projections of its vector, its features and its products with the user's vectors; there
    are no positions, so the order of the candidates changes nothing. What the block says is added to the inner product.

    Args:
        tasks: T.
        dimension: D.
        features: F.
        hidden: H, width of the block, a multiple of `HEADS`.

    Source: Pang et al., SetRank: learning a permutation-invariant ranking model, SIGIR 2020 (arXiv 1912.05891).
    """

    pointwise = False

    def __init__(self, tasks: int, dimension: int, features: int, hidden: int = 64) -> None:
        super().__init__()
        if hidden % HEADS:
            raise ValueError(f"hidden: expected a multiple of {HEADS}, got {hidden}")
        self.token = nn.Linear(dimension + features + tasks * dimension, hidden)
        self.query_key_value = nn.Linear(hidden, 3 * hidden)
        self.mix = nn.Linear(hidden, hidden)
        self.before, self.after = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.layers = nn.Sequential(nn.Linear(hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, hidden))
        self.heads = nn.Linear(hidden, tasks)
        nn.init.zeros_(self.heads.weight)
        nn.init.zeros_(self.heads.bias)
        self.scale = nn.Parameter(torch.ones(tasks))

    def forward(self, users: Tensor, items: Tensor, features: Tensor, valid: Tensor) -> Tensor:
        """See the module's text."""
        products_BKTD = users[:, None] * items[:, :, None]
        tokens_BKH = self.token(torch.cat([items, features, products_BKTD.flatten(2)], dim=2))
        # One candidate with numbers that overflow would make NaN of all: a weight of 0 does not hide a NaN.
        tokens_BKH = tokens_BKH.clamp(-LARGEST_TOKEN, LARGEST_TOKEN).nan_to_num(nan=0.0)
        tokens_BKH = tokens_BKH + self._attend(self.before(tokens_BKH), valid)
        tokens_BKH = tokens_BKH + self.layers(self.after(tokens_BKH))
        scores: Tensor = self.scale * products_BKTD.sum(dim=3) + self.heads(tokens_BKH)
        return scores

    def _attend(self, tokens_BKH: Tensor, valid: Tensor) -> Tensor:
        query, key, value = (
            part.view(*part.shape[:2], HEADS, -1).transpose(1, 2)
            for part in self.query_key_value(tokens_BKH).chunk(3, dim=2)
        )
        # A list without a candidate attends to its empty places: a softmax over nothing would be NaN.
        seen = (valid | ~valid.any(dim=1, keepdim=True))[:, None, None]
        told = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        mixed: Tensor = self.mix(told.transpose(1, 2).flatten(2))
        return mixed


SCORERS: dict[str, type[Scorer]] = {
    "mlp": MLP,
    "mixture_of_logits": MixtureOfLogits,
    "self_attention": SelfAttention,
}
"""Learned scorers by the name that model files and training configurations give them; `SET_WISE_SCORERS` of
`snapshot.catalog` has the names of those that are not pointwise."""
