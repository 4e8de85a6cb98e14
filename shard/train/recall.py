"""How well a ranking finds what users liked next."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def recall_at(
    k: int,
    scores: NDArray[np.float32],
    liked: NDArray[np.int64],
    seen: Sequence[NDArray[np.int64]],
) -> float:
    """Fraction of likes that stand among the k best items which the user had not liked before.

    Args:
        k: places that count.
        scores: `[n, N]` float32, a score of every item for every like; ties go to the lower row.
        liked: `[n]` int64 row of the item that was liked.
        seen: `n` arrays of item rows that are no candidates; a like repeated still is one.

    Returns:
        The recall, 0 to 1.
    """
    rows = np.arange(scores.shape[1])
    hits = 0
    for score, item, known in zip(scores, liked, seen, strict=True):
        ahead = (score > score[item]) | ((score == score[item]) & (rows < item))
        ahead[known] = False
        hits += int(ahead.sum()) < k
    return hits / len(liked)


def popularity_recall_at(
    k: int,
    counts: NDArray[np.int64],
    liked: NDArray[np.int64],
    seen: Sequence[NDArray[np.int64]],
) -> float:
    """`recall_at` of the same ranking for everyone: items by how often they were liked (`counts: [N]`)."""
    scores = np.broadcast_to(counts.astype(np.float32), (len(liked), len(counts)))
    return recall_at(k, scores, liked, seen)
