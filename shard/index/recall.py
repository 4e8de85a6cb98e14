"""The recall curve: how much of a catalog must be visited to find its nearest items.

Letters: N items, D dimensions, C clusters, S sample queries, K depth.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

DEPTHS = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
SAMPLE = 256
BLOCK = 16_384


class RecallCurve(NamedTuple):
    """Fraction of the items that must be visited, in probe order, to find the top K at the target recall.

    A filter that passes a fraction s of the items makes its top k the top k / s of all, as long as it does not
    depend on the vectors; the planner corrects for those that do by counting what passes.

    Attributes:
        depths: `[J]` float32 values of K, ascending.
        fractions: `[J]` float32, ascending, 0 to 1.
    """

    depths: Tensor
    fractions: Tensor

    def fraction(self, depth: Tensor) -> Tensor:
        """Interpolate linearly over log K; past the last measured depth everything is visited.

        Args:
            depth: float32, any shape.

        Returns:
            float32 of the same shape.
        """
        depths = torch.cat([self.depths, self.depths.new_tensor([torch.inf])])
        fractions = torch.cat([self.fractions, self.fractions.new_ones(1)])
        above = torch.searchsorted(depths, depth.contiguous()).clamp(1, len(self.depths))
        low, high = depths[above - 1], depths[above]
        share = ((depth / low).log() / (high / low).log()).clamp(0, 1)
        inside = fractions[above - 1] + share * (fractions[above] - fractions[above - 1])
        return torch.where(depth > self.depths[-1], 1.0, inside)


def measure_recall_curve(
    vectors: Tensor, centroids: Tensor, nearest: Tensor, *, target: float = 0.99, seed: int = 0
) -> RecallCurve:
    """Measure the curve by brute force on queries made from the catalog itself.

    Half of the queries are items moved halfway towards another item's direction, the other half lie between two
    items: queries of users are rarely items.

    Args:
        vectors: `[N, D]` float32, N at least 1.
        centroids: `[C, D]` float32.
        nearest: `[N]` int64, the cluster of each item.
        target: mean recall to reach at every depth.
        seed: of the sample.

    Returns:
        A `RecallCurve`.

    Cost:
        `2·S·N·D` floating-point operations.
    """
    generator = torch.Generator().manual_seed(seed)
    first, second = (vectors[torch.randint(len(vectors), (SAMPLE,), generator=generator)] for _ in range(2))
    queries = first + torch.linspace(0, 0.5, SAMPLE)[:, None] * (second - first)
    deepest = min(DEPTHS[-1], len(vectors))
    best = _nearest_items(vectors, queries, deepest)
    sizes = torch.bincount(nearest, minlength=len(centroids)).float()
    order = torch.argsort(queries @ centroids.T, dim=1, descending=True, stable=True)
    visited = torch.empty(len(queries), len(centroids)).scatter_(1, order, sizes[order].cumsum(1))
    needed = visited.gather(1, nearest[best]) / len(vectors)
    depths = [depth for depth in DEPTHS if depth < deepest] + [deepest]
    fractions = [_quantile(needed[:, :depth].flatten(), target) for depth in depths]
    return RecallCurve(torch.tensor(depths, dtype=torch.float32), torch.stack(fractions).cummax(0).values)


def _nearest_items(vectors: Tensor, queries: Tensor, k: int) -> Tensor:
    scores = queries.new_empty(len(queries), 0)
    items = torch.empty(len(queries), 0, dtype=torch.int64)
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        scores = torch.cat([scores, queries @ block.T], dim=1)
        numbers = torch.arange(start, start + len(block)).expand(len(queries), -1)
        items = torch.cat([items, numbers], dim=1)
        top = torch.topk(scores, min(k, scores.shape[1]), dim=1)
        scores, items = top.values, items.gather(1, top.indices)
    return items


def _quantile(values: Tensor, share: float) -> Tensor:
    rank = min(len(values), int(len(values) * share) + 1)
    return values.kthvalue(rank).values
