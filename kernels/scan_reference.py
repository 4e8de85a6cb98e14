"""The scan in plain PyTorch: the specification. The letters are those of `silverray.kernels.scan`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from silverray.kernels.bits import read_bits
from silverray.kernels.centroids import int8_products
from silverray.kernels.codes import quantize_rows
from silverray.kernels.programs import reference as evaluate_reference
from silverray.kernels.scores import halving_sum
from silverray.kernels.topk import top_k

MAX_SCORES = 1 << 24
"""Most scores that are held at a time (64 MiB)."""

ScoreList = Callable[[Tensor, int, slice], Tensor]
"""Scores `[M, S]` of some queries `[M]` with a cluster's slots."""


def scan(
    codes: Tensor,
    scales: Tensor,
    keys: Tensor,
    offsets: Tensor,
    planes: Tensor,
    programs: Tensor,
    filters: Tensor,
    queries: Tensor,
    probes: Tensor,
    centroid_scores: Tensor,
    keep: int,
) -> tuple[Tensor, Tensor]:
    """`silverray.kernels.scan.scan`; the result is sorted."""
    coded = quantize_rows(queries)

    def score(rows: Tensor, cluster: int, slots: slice) -> Tensor:
        dots = int8_products(coded.values[rows], codes[slots])
        return centroid_scores[rows, cluster, None] + coded.scales[rows, None] * scales[None, slots] * dots

    return _best(score, keys, offsets, evaluate_reference(planes, programs)[filters], probes, keep)


def exact_scan(
    vectors: Tensor,
    keys: Tensor,
    offsets: Tensor,
    planes: Tensor,
    programs: Tensor,
    filters: Tensor,
    queries: Tensor,
    probes: Tensor,
    k: int,
) -> tuple[Tensor, Tensor]:
    """`silverray.kernels.scan.exact_scan`."""

    def score(rows: Tensor, cluster: int, slots: slice) -> Tensor:
        return torch.stack([halving_sum(vectors[slots].float() * queries[row]) for row in rows.tolist()])

    return _best(score, keys, offsets, evaluate_reference(planes, programs)[filters], probes, k)


def _best(
    score: ScoreList, keys: Tensor, offsets: Tensor, bits: Tensor, probes: Tensor, keep: int
) -> tuple[Tensor, Tensor]:
    """The best slots of the probed lists, by a part of the queries at a time."""
    sizes = torch.where(probes >= 0, offsets.diff()[probes.clamp(min=0)], 0)
    width = int(sizes.sum(1).max()) if probes.numel() else 0
    step = max(1, MAX_SCORES // max(1, width))
    best = [torch.full((0, keep), -torch.inf, device=keys.device)], [keys.new_empty(0, keep)]
    for start in range(0, len(probes), step):
        rows = torch.arange(start, min(start + step, len(probes)), device=keys.device)
        scores, slots = _score_probes(score, offsets, bits, probes, sizes, rows)
        found = top_k(scores, keys[slots] if len(keys) else slots, keep)
        slots = slots.gather(1, found.places.clamp(min=0)) if slots.shape[1] else found.places
        best[0].append(found.scores)
        best[1].append(torch.where(found.places >= 0, slots, -1))
    return torch.cat(best[0]), torch.cat(best[1])


def _score_probes(
    score: ScoreList, offsets: Tensor, bits: Tensor, probes: Tensor, sizes: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Scores `[Q, S]` (-inf where filtered out) and slots of the probed lists of queries `rows`, list after list."""
    places = (sizes.cumsum(1) - sizes)[rows]
    scores = torch.full((len(rows), int(sizes[rows].sum(1).max()) if probes.numel() else 0), -torch.inf)
    scores = scores.to(probes.device)
    slots = torch.zeros_like(scores, dtype=torch.int64)
    flat = probes[rows].flatten()
    order = torch.argsort(flat, stable=True)
    clusters, counts = torch.unique_consecutive(flat[order], return_counts=True)
    bounds = offsets.tolist()
    for cluster, pairs in zip(clusters.tolist(), torch.split(order, counts.tolist()), strict=True):
        first, last = (bounds[cluster], bounds[cluster + 1]) if cluster >= 0 else (0, 0)
        if first == last:
            continue
        queries, members = pairs // probes.shape[1], torch.arange(first, last, device=probes.device)
        found = score(rows[queries], cluster, slice(first, last))
        found = found.masked_fill(~read_bits(bits, rows[queries][:, None], members), -torch.inf)
        columns = places.flatten()[pairs, None] + (members - first)
        scores[queries[:, None], columns] = found
        slots[queries[:, None], columns] = members.expand(len(queries), -1)
    return scores, slots
