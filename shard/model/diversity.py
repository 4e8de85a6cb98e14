"""Diversification of ranked lists: sliding spectrum decomposition and soft spacing.

Letters: B lists, N items of a list, D dimensions, F fields, W items that the next one is compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from silverray.kernels.checks import check
from silverray.shard.api import MAX_FEATURES_K, MAX_STRENGTH

MAX_WINDOW = 64
"""Longest window: a step costs a triangular system of its size for every item."""

_RIDGE = 1e-12
"""Added to the products of an item with itself: far above the rounding of float64, and below what counts."""
_FLOOR = 1e-10
"""Squared distance that counts as none: what rounding and the ridge leave of an item that is in the window already."""


class Diversity(nn.Module):
    """Orders a list greedily, so that each item is good and unlike the ones just before it.

    The next item is the one with the highest `score + strength * (novelty - spacing)`, the first of the list among
    equals:

    - novelty, 0 to 1, is the length of what is left of the item's embedding, scaled to length 1, once its projection
      on the `window - 1` items placed last is taken away: 0 for a copy of one of them, 1 if orthogonal to all;
    - spacing is the sum over the fields of `weight * (1 - (distance - 1) / window)`, down to 0, where `distance` is how
      many places ago an item with the same value was placed.

    An embedding of zeros, or with NaN or infinity, has no novelty; a score of NaN counts as the least. All sums are
    float64, and a list's order depends neither on the other lists of the batch nor on padding.

    Args:
        window: places that must differ, the next one included; 2 to `MAX_WINDOW`.
        weights: weight of the spacing of each of F fields, 0 to `MAX_STRENGTH`.

    Source:
        Huang et al., Sliding spectrum decomposition for diversified recommendation, KDD 2021 (arXiv 2107.05204). There
        novelty is multiplied by the volume that the items in the window span, a factor that all candidates share and
        that falls towards 0 as the list grows: left out, so that a strength means the same at every place. An item that
        leaves the window is forgotten entirely: the window is solved anew instead of keeping a queue of projections.
    """

    weights: Tensor

    def __init__(self, window: int, weights: Sequence[float] = ()) -> None:
        super().__init__()
        if not 2 <= window <= MAX_WINDOW:
            raise ValueError(f"window: expected 2 to {MAX_WINDOW}, got {window}")
        if not all(0 <= weight <= MAX_STRENGTH for weight in weights):
            raise ValueError(f"weights: expected 0 to {MAX_STRENGTH:g}, got {list(weights)}")
        self.window = window
        self.register_buffer("weights", torch.tensor(list(weights), dtype=torch.float64))

    def forward(
        self,
        scores: Tensor,
        embeddings: Tensor,
        valid: Tensor,
        strength: Tensor,
        k: int,
        codes: Tensor | None = None,
    ) -> Tensor:
        """Order lists.

        Args:
            scores: `[B, N]` float32, N at most `MAX_FEATURES_K`.
            embeddings: `[B, N, D]` float32, of any length.
            valid: `[B, N]` bool, false for padding.
            strength: `[B]` float32, 0 to `MAX_STRENGTH`, in units of the scores; 0 orders by score alone.
            k: places to fill.
            codes: `[B, F, N]` int64, value of each field; negative where it has none. None where F is 0.

        Returns:
            `[B, k]` int64 places in the list, in the new order; -1 where there are no more items.

        Raises:
            ValueError: a wrong dtype or shape.

        Cost:
            O(k N (D + W²)) for each list.
        """
        codes = self._check(scores, embeddings, valid, strength, codes)
        choices = _Choices(scores, valid)
        novelty = _Novelty(embeddings, self.window - 1)
        spacing = _Spacing(codes, self.weights, self.window) if len(self.weights) else None
        strength, order = strength.double()[:, None], []
        for _ in range(k):
            bonus = novelty.values() if spacing is None else novelty.values() - spacing.values()
            chosen = choices.take(strength * bonus)
            order.append(chosen.placed)
            novelty.place(chosen.items)
            if spacing is not None:
                spacing.place(chosen.items)
        return torch.cat(order, dim=1) if order else valid.new_empty(len(valid), 0, dtype=torch.int64)

    def _check(
        self, scores: Tensor, embeddings: Tensor, valid: Tensor, strength: Tensor, codes: Tensor | None
    ) -> Tensor:
        check("scores", scores, torch.float32, None, None)
        lists, items = scores.shape
        if not 1 <= items <= MAX_FEATURES_K:
            raise ValueError(f"scores: expected 1 to {MAX_FEATURES_K} items, got {items}")
        check("embeddings", embeddings, torch.float32, lists, items, None)
        check("valid", valid, torch.bool, lists, items)
        check("strength", strength, torch.float32, lists)
        if codes is None:
            codes = torch.empty(lists, 0, items, dtype=torch.int64, device=scores.device)
        check("codes", codes, torch.int64, lists, len(self.weights), items)
        return codes


class _Choice(NamedTuple):
    """The items chosen for a place: `[B, 1]` int64, and the same with -1 for lists that have no more."""

    items: Tensor
    placed: Tensor


class _Choices:
    """The items that are left, by score."""

    def __init__(self, scores: Tensor, valid: Tensor) -> None:
        # Scores stay finite, so that -inf is left to say that an item is none or gone.
        least, most = (2.0 * torch.finfo(torch.float32).max * sign for sign in (-1, 1))
        finite = torch.nan_to_num(scores.double(), nan=least, neginf=least, posinf=most)
        self._scores = torch.where(valid, finite, -torch.inf)

    def take(self, bonus: Tensor) -> _Choice:
        """Choose the best item of each list; `bonus` is `[B, N]`."""
        best, items = (self._scores + bonus).max(dim=1, keepdim=True)
        self._scores = self._scores.scatter(1, items, -torch.inf)
        return _Choice(items, torch.where(best > -torch.inf, items, -1))


class _Novelty:
    """How far every item is from the span of the last W items placed."""

    def __init__(self, embeddings: Tensor, size: int) -> None:
        wide = embeddings.double()
        lengths = torch.linalg.vector_norm(wide, dim=2, keepdim=True)
        self._units = torch.where((lengths > 0) & lengths.isfinite(), wide / lengths, 0.0)
        self._squares = (self._units.square().sum(dim=2) > 0).double() - _FLOOR
        lists, items = self._squares.shape
        self._placed = torch.zeros(lists, size, dtype=torch.int64, device=wide.device)
        self._products = wide.new_zeros(lists, size, items)
        self._count = 0
        self._explained = torch.zeros_like(self._squares)

    def values(self) -> Tensor:
        """`[B, N]` float32, 0 to 1: rounded, so that the order of sums in a matrix product decides nothing."""
        return (self._squares - self._explained).clamp(min=0).sqrt().float()

    def place(self, items: Tensor) -> None:
        """Place `items`, `[B, 1]`; the window forgets the ones placed first."""
        size = self._placed.shape[1]
        slot, used = self._count % size, min(self._count + 1, size)
        self._count += 1
        unit = self._units.gather(1, items[:, :, None].expand(-1, -1, self._units.shape[2]))
        self._placed[:, slot] = items[:, 0]
        self._products[:, slot] = (self._units @ unit.mT)[:, :, 0]
        products = self._products[:, :used]
        gram = products.gather(2, self._placed[:, None, :used].expand(-1, used, -1))
        # With a ridge the system can be solved also when the window holds copies, which then count once.
        gram.diagonal(dim1=1, dim2=2).add_(_RIDGE)
        factor = torch.linalg.cholesky_ex(gram).L
        self._explained = torch.linalg.solve_triangular(factor, products, upper=False).square().sum(dim=1)


class _Spacing:
    """How recently every item's values were placed."""

    def __init__(self, codes: Tensor, weights: Tensor, window: int) -> None:
        self._codes = codes
        self._weights = torch.where(codes >= 0, weights[:, None], 0.0)
        self._window = window
        self._since = torch.full_like(self._weights, window)

    def values(self) -> Tensor:
        """`[B, N]` float64, 0 or more."""
        return (self._weights * (1 - self._since / self._window).clamp(min=0)).sum(dim=1)

    def place(self, items: Tensor) -> None:
        """Place `items`, `[B, 1]`."""
        placed = self._codes.gather(2, items[:, None].expand(-1, self._codes.shape[1], -1))
        self._since = torch.where(self._codes == placed, 0.0, self._since + 1)
