"""Measuring a catalog's recall curve.

Letters: N items, D dimensions, C clusters, S sample queries, K depth.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silverray.kernels.centroids import reference as score_centroids
from silverray.kernels.codes import quantize_rows
from silverray.shard.publish.vectors import ItemVectors
from silverray.shard.snapshot.recall_curve import RecallCurve

Ints = NDArray[np.int64]
Found = tuple[NDArray[np.uint16], Ints]
"""Rows and ranks of candidates."""

DEPTHS = (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000)
"""Two a decade: between them the curve is interpolated. The last is the largest k of a search; every depth costs a
quantile of what was found anyway."""
SAMPLE = 256
"""At depth 1, two or three of so many queries decide where the 99 % lie; each costs a pass over all vectors (decision
3.1)."""
LAST_ITEM = 0xFFFF_FFFF
"""The lower half of a rank is the item's number, turned round so that the lower one is the better of two equal
scores."""


def measure_recall_curve(
    vectors: ItemVectors, centroids: Tensor, nearest: Tensor, *, target: float = 0.99, seed: int = 0
) -> RecallCurve:
    """Measure the curve by brute force on queries made from the catalog itself.

    Half of the queries are items moved halfway towards another item's direction, the other half lie between two
    items: queries of users are rarely items.

    Args:
        vectors: N of them, at least 1.
        centroids: `[C, D]` float32.
        nearest: `[N]` int64, the cluster of each item.
        target: mean recall to reach at every depth.
        seed: of the sample.

    Returns:
        A `RecallCurve`; the same for any number of threads.

    Cost:
        `2·S·N·D` floating-point operations.
    """
    generator = torch.Generator().manual_seed(seed)
    ends = (torch.randint(len(vectors), (SAMPLE,), generator=generator) for _ in range(2))
    first, second = (vectors.rows(places.numpy()) for places in ends)
    queries = first + torch.linspace(0, 0.5, SAMPLE)[:, None] * (second - first)
    deepest = min(DEPTHS[-1], len(vectors))
    best = _nearest_items(vectors, queries, deepest)
    sizes = torch.bincount(nearest, minlength=len(centroids)).float()
    # By the scores that will choose the clusters: int8 cannot tell many centroids of few dimensions apart.
    order = torch.argsort(score_centroids(*quantize_rows(centroids), queries), dim=1, descending=True, stable=True)
    visited = torch.empty(len(queries), len(centroids)).scatter_(1, order, sizes[order].cumsum(1))
    needed = visited.gather(1, nearest[best]) / len(vectors)
    depths = [depth for depth in DEPTHS if depth < deepest] + [deepest]
    fractions = [_quantile(needed[:, :depth].flatten(), target) for depth in depths]
    return RecallCurve(torch.tensor(depths, dtype=torch.float32), torch.stack(fractions).cummax(0).values)


def _nearest_items(vectors: ItemVectors, queries: Tensor, k: int) -> Tensor:
    """The k best items of each query by dot product, best first, lower numbers first among equals: `[S, k]` int64."""
    best: list[Ints] = [np.empty(0, dtype=np.int64)] * len(queries)
    floors = np.full((len(queries), 1), -np.inf, dtype=np.float32)

    def above_floors(start: int, block: Tensor) -> Found:
        scores = (queries @ block.T).numpy()
        # Floors may rise meanwhile; what then passes in vain is dropped by `_keep_best`.
        places = np.flatnonzero(~(scores < floors))
        rows = places // scores.shape[1]
        items = places - rows * scores.shape[1] + start
        # NumPy sorts 16-bit integers in linear time.
        return rows.astype(np.uint16), _ranks(scores.reshape(-1)[places], items)

    found: list[Found] = []
    waiting = 0
    for rows, ranks in vectors.map_blocks(above_floors):
        found.append((rows, ranks))
        waiting += len(rows)
        if waiting >= len(queries) * k // 4:
            best, found, waiting = _keep_best(best, found, k), [], 0
            for row, kept in enumerate(best):
                floors[row] = _scores(kept.min()) if len(kept) == k else -np.inf
    if found:
        best = _keep_best(best, found, k)
    ordered = np.stack([np.sort(ranks)[::-1] for ranks in best])
    return torch.from_numpy(LAST_ITEM - (ordered & LAST_ITEM))


def _keep_best(best: list[Ints], found: list[Found], k: int) -> list[Ints]:
    """The k highest ranks of each row, or all where there are fewer."""
    rows, ranks = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(rows, kind="stable")
    ends = np.bincount(rows, minlength=len(best)).cumsum()
    joined = [np.concatenate(pair) for pair in zip(best, np.split(ranks[order], ends[:-1]), strict=True)]
    return [np.partition(row, len(row) - k)[-k:] if len(row) > k else row for row in joined]


def _ranks(scores: NDArray[np.float32], items: Ints) -> Ints:
    """One integer per scored item: higher is better by (score desc, item asc)."""
    return _in_order(scores.view(np.int32)).astype(np.int64) << 32 | (LAST_ITEM - items)


def _scores(ranks: Ints) -> NDArray[np.float32]:
    return _in_order((ranks >> 32).astype(np.int32)).view(np.float32)


def _in_order(bits: NDArray[np.int32]) -> NDArray[np.int32]:
    """Map the bits of floats to integers in the same order; its own inverse."""
    return bits ^ (bits >> 31 & np.int32(0x7FFF_FFFF))


def _quantile(values: Tensor, share: float) -> Tensor:
    rank = min(len(values), int(len(values) * share) + 1)
    return values.kthvalue(rank).values
