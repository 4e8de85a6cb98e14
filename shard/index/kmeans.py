"""K-means: the centroids of the index. Letters: N vectors, D dimensions, C clusters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 8_192
SAMPLE_PER_CLUSTER = 128
START_PER_CLUSTER = 16

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, the steps done and the steps in all."""


def default_clusters(items: int) -> int:
    """The power of two nearest to twice the square root of the number of items, at least 1."""
    if items < 2:
        return 1
    return min(items, 1 << round(torch.tensor(2 * items**0.5).log2().item()))


def train_centroids(
    vectors: Tensor, clusters: int, *, seed: int = 0, iterations: int = 10, progress: Progress | None = None
) -> Tensor:
    """Train centroids by Lloyd's algorithm on a sample, started by k-means++.

    A cluster that loses all its vectors takes the vector that is farthest from its centroid.

    Args:
        vectors: `[N, D]` float32, finite.
        clusters: number of centroids, 1 to N.
        seed: of the sample and the start.
        iterations: of Lloyd's algorithm.
        progress: told of every iteration.

    Returns:
        `[C, D]` float32.

    Raises:
        ValueError: fewer vectors than clusters.

    Source:
        Arthur, Vassilvitskii: k-means++, SODA 2007.
    """
    if not 1 <= clusters <= len(vectors):
        raise ValueError(f"clusters: expected 1 to {len(vectors)} (the number of items), got {clusters}")
    generator = torch.Generator().manual_seed(seed)
    sample = vectors[torch.randperm(len(vectors), generator=generator)[: clusters * SAMPLE_PER_CLUSTER]]
    centroids = _spread_start(sample[: clusters * START_PER_CLUSTER], clusters, generator)
    for iteration in range(iterations):
        if progress:
            progress("k-means", iteration, iterations)
        nearest, distances = assign(sample, centroids)
        counts = torch.bincount(nearest, minlength=clusters)
        sums = torch.zeros_like(centroids).index_add_(0, nearest, sample)
        centroids = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centroids)
        empty = torch.nonzero(counts == 0)[:, 0]
        centroids[empty] = sample[torch.argsort(distances, descending=True, stable=True)[: len(empty)]]
    if progress:
        progress("k-means", iterations, iterations)
    return centroids


def assign(vectors: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Find each vector's nearest centroid by Euclidean distance, in blocks.

    Args:
        vectors: `[N, D]` float32.
        centroids: `[C, D]` float32.

    Returns:
        The nearest centroid `[N]` int64 (the lowest number of equals) and the squared distance `[N]` float32.
    """
    half_norms = centroids.square().sum(1) / 2
    nearest = torch.empty(len(vectors), dtype=torch.int64)
    distances = torch.empty(len(vectors))
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK]
        best = torch.addmm(half_norms, block, centroids.T, beta=-1).max(dim=1)
        nearest[start : start + BLOCK] = best.indices
        distances[start : start + BLOCK] = (block.square().sum(1) - 2 * best.values).clamp(min=0)
    return nearest, distances


def _spread_start(sample: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    chosen = [int(torch.randint(len(sample), (1,), generator=generator))]
    distances = (sample - sample[chosen[0]]).square().sum(1)
    norms = sample.square().sum(1)
    for _ in range(clusters - 1):
        # All vectors may coincide with a chosen one; any of them will do then.
        weights = distances if distances.sum() > 0 else torch.ones_like(distances)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
        newest = sample[chosen[-1]]
        away = norms + norms[chosen[-1]] - 2 * (sample @ newest)
        distances = torch.minimum(distances, away.clamp_(min=0))
    return sample[chosen].clone()
