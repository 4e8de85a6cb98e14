"""Ground truth by brute force, and recall that ties cannot distort. Letters: N items, D dimensions, B queries."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from silverray.cluster.loadtest.truth import TIE

BLOCK = 32_768
"""Items scored at a time: 128 KiB of scores a query."""


class Truth(NamedTuple):
    """The best items of each query.

    Attributes:
        items: `[B, k]` int64 row numbers, best first; -1 where fewer than k items match.
        scores: `[B, k]` float32 dot products; -inf where there is no item.
    """

    items: NDArray[np.int64]
    scores: NDArray[np.float32]

    def top(self, k: int) -> Truth:
        """The first k of each query."""
        return Truth(self.items[:, :k], self.scores[:, :k])


def brute_force(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], k: int, passing: NDArray[np.bool_] | None = None
) -> Truth:
    """Find the k items with the largest dot products.

    Args:
        vectors: `[N, D]` float32.
        queries: `[B, D]` float32.
        k: how many, at least 1.
        passing: `[N]` bool items that may be found; None is all.

    Returns:
        The truth, in float32.

    Cost:
        Memory for `B · (32,768 + k)` scores beside the arguments.
    """
    rows = torch.from_numpy(np.ascontiguousarray(queries))
    scores = torch.full((len(rows), k), -torch.inf)
    items = torch.full((len(rows), k), -1)
    for start in range(0, len(vectors), BLOCK):
        block = torch.from_numpy(np.ascontiguousarray(vectors[start : start + BLOCK]))
        numbers = torch.arange(start, start + len(block))
        if passing is not None:
            chosen = torch.from_numpy(passing[start : start + BLOCK])
            block, numbers = block[chosen], numbers[chosen]
        best = torch.topk(rows @ block.T, min(k, len(block)), dim=1)
        scores, places = torch.topk(torch.cat([scores, best.values], dim=1), k, dim=1)
        items = torch.cat([items, numbers[best.indices]], dim=1).gather(1, places)
    return Truth(items.numpy(), scores.numpy())


def recall(
    vectors: NDArray[np.float32],
    queries: NDArray[np.float32],
    found: NDArray[np.int64],
    truth: Truth,
    passing: NDArray[np.bool_] | None = None,
) -> float:
    """The mean share of the wanted items that were found.

    An item counts when it may be found, was not returned before for the query, and its exact score is at least the
    k-th true score minus 1e-5: of items with equal scores any will do.

    Args:
        vectors: `[N, D]` float32.
        queries: `[B, D]` float32.
        found: `[B, k]` int64 row numbers as returned; -1 is none.
        truth: of the same k.
        passing: `[N]` bool items that may be found; None is all.

    Returns:
        0 to 1, over the queries for which anything matches; 1 where nothing matches any.

    Raises:
        ValueError: `found` is not of the truth's shape.
    """
    if found.shape != truth.items.shape:
        raise ValueError(f"found: expected {list(truth.items.shape)}, got {list(found.shape)}")
    wanted = (truth.items >= 0).sum(axis=1)
    shares = []
    for query, row, count, true in zip(queries, found, wanted, truth.scores, strict=True):
        if not count:
            continue
        items = np.unique(row[row >= 0])
        if passing is not None:
            items = items[passing[items]]
        hits = (vectors[items] @ query >= true[count - 1] - TIE).sum()
        shares.append(min(hits, count) / count)
    return float(np.mean(shares)) if shares else 1.0
