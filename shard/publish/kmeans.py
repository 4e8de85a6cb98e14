"""K-means: the centroids of the index. Letters: N vectors, D dimensions, C clusters."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from silverray.shard.publish.vectors import BLOCK, ItemVectors

ROUNDS = ((32, 5), (64, 2), (128, 2))
"""Sample vectors per cluster and iterations of Lloyd's algorithm: the early ones, far from the end, see fewer."""

START_PER_CLUSTER = 16
"""Sample vectors a cluster that the start is chosen from. The work grows with it; Lloyd's rounds see more of them,
and mend what the start lacks."""
START_BATCHES = 16
"""K-means++ chooses one vector at a time. In batches the work is the same in sum, but in products of large matrices;
fewer batches would choose more vectors that lie beside one another (decision 7.2)."""

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, the steps done and the steps in all."""


class Assignment(NamedTuple):
    """Each vector's nearest centroid: its number `[N]` int64 and the squared distance to it `[N]` float32."""

    nearest: Tensor
    distances: Tensor


def default_clusters(items: int) -> int:
    """The power of two nearest to twice the square root of the number of items, at least 1."""
    if items < 2:
        return 1
    return min(items, 1 << round(torch.tensor(2 * items**0.5).log2().item()))


def train_centroids(
    vectors: ItemVectors, clusters: int, *, spherical: bool = False, seed: int = 0, progress: Progress | None = None
) -> Tensor:
    """Train centroids by Lloyd's algorithm on a growing sample, started by k-means++ in batches.

    A cluster that loses all its vectors takes the vector that is farthest from its centroid.

    Args:
        vectors: N of them.
        clusters: number of centroids, 1 to N.
        spherical: whether centroids have length 1, as those of vectors of length 1 should: a mean is the shorter the
            wider its cluster, so that a probe by dot products would underrate wide clusters.
        seed: of the sample and the start.
        progress: told of every iteration.

    Returns:
        `[C, D]` float32; the same for any number of threads.

    Raises:
        ValueError: fewer vectors than clusters.

    Cost:
        About `2·550·C²·D` floating-point operations; memory for a sample of 128 vectors a cluster.

    Source:
        Arthur, Vassilvitskii: k-means++, SODA 2007. Dhillon, Modha: concept decompositions, Machine Learning 42, 2001.
    """
    if not 1 <= clusters <= len(vectors):
        raise ValueError(f"clusters: expected 1 to {len(vectors)} (the number of items), got {clusters}")
    sizes = [size for size, iterations in ROUNDS for _ in range(iterations)]
    if progress:
        progress("k-means", 0, len(sizes))
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(vectors), generator=generator)[: clusters * ROUNDS[-1][0]]
    sample = vectors.rows(chosen.numpy())
    centroids = _spread_start(sample[: clusters * START_PER_CLUSTER], clusters, generator)
    for iteration, size in enumerate(sizes, 1):
        centroids = _improve(centroids, sample[: clusters * size], spherical)
        if progress:
            progress("k-means", iteration, len(sizes))
    return centroids


def assign(vectors: ItemVectors, centroids: Tensor) -> Assignment:
    """Find each vector's nearest centroid by Euclidean distance, in blocks.

    Args:
        vectors: N of them.
        centroids: `[C, D]` float32.

    Returns:
        The nearest centroids, the lowest number of equals; the same for any number of threads.

    Cost:
        `2·N·C·D` floating-point operations.
    """
    half_norms = centroids.square().sum(1) / 2
    nearest = torch.empty(len(vectors), dtype=torch.int64)
    distances = torch.empty(len(vectors))
    # A new block of this size each time would have its pages mapped, zeroed and given back by the system each time.
    scratch = threading.local()

    def find(start: int, block: Tensor) -> None:
        if not hasattr(scratch, "closeness"):
            scratch.closeness = torch.empty(BLOCK, len(centroids))
        closeness = torch.addmm(half_norms, block, centroids.T, beta=-1, out=scratch.closeness[: len(block)])
        # NumPy finds the place of a maximum ten times as fast as torch.
        best = torch.from_numpy(closeness.numpy().argmax(axis=1))
        nearest[start : start + len(block)] = best
        top = closeness.gather(1, best[:, None])[:, 0]
        distances[start : start + len(block)] = (block.square().sum(1) - 2 * top).clamp(min=0)

    for _ in vectors.map_blocks(find):
        pass
    return Assignment(nearest, distances)


def _improve(centroids: Tensor, sample: Tensor, spherical: bool) -> Tensor:
    """One iteration of Lloyd's algorithm."""
    nearest, distances = assign(ItemVectors(sample.numpy(), "ip"), centroids)
    counts = torch.bincount(nearest, minlength=len(centroids))
    sums = torch.zeros_like(centroids).index_add_(0, nearest, sample)
    lengths = torch.linalg.vector_norm(sums, dim=1) if spherical else counts
    centroids = torch.where(lengths[:, None] > 0, sums / lengths[:, None], centroids)
    empty = torch.nonzero(counts == 0)[:, 0]
    centroids[empty] = sample[torch.argsort(distances, descending=True, stable=True)[: len(empty)]]
    return centroids


def _spread_start(sample: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Choose vectors in batches, the chance of each proportional to its squared distance to those chosen before."""
    batch = max(1, clusters // START_BATCHES)
    vectors = ItemVectors(sample.numpy(), "ip")
    chosen = torch.empty(0, dtype=torch.int64)
    distances = torch.ones(len(sample))
    while len(chosen) < clusters:
        # Exponential clocks run at the speed of the weights: those that ring first are a sample without replacement.
        clocks = distances / -torch.rand(len(sample), generator=generator).log()
        clocks[chosen] = -1
        newest = torch.topk(clocks, min(batch, clusters - len(chosen))).indices
        nearer = assign(vectors, sample[newest]).distances
        distances = torch.minimum(distances, nearer) if len(chosen) else nearer
        chosen = torch.cat([chosen, newest])
    return sample[chosen]
