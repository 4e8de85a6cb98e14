"""What the kernels of a GPU must find, in plain PyTorch on the same device: no kernel of ours takes part.

Letters: N items, D dimensions, C clusters, Q queries, P probes, K candidates, W words.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from silverray.kernels import centroids, probes, programs, scan_reference, scores, topk
from silverray.kernels.bits import count_ranges, range_bits, set_bits
from silverray.kernels.retrieve import Arguments

RANGES = 1 << 26
"""Slots, of all queries together, that are marked at a time."""

Pairs = tuple[Tensor, Tensor]
"""Scores `[Q, k]` float32 and slots `[Q, k]` int64, sorted; -inf and -1 where there are no more."""


def refine(vectors: Tensor, keys: Tensor, queries: Tensor, candidates: Tensor, k: int) -> Pairs:
    """`silverray.kernels.refine.refine`."""
    rows = torch.arange(len(queries), device=queries.device)[:, None].expand_as(candidates)
    exact = scores.reference(vectors, queries, rows.flatten(), candidates.flatten()).view(candidates.shape)
    best, places = topk.reference(exact, keys[candidates.clamp(min=0)], k)
    return best, torch.where(places >= 0, candidates.gather(1, places.clamp(min=0)), -1)


def survivors(vectors: Tensor, keys: Tensor, bits: Tensor, filters: Tensor, queries: Tensor, k: int) -> Pairs:
    """`silverray.kernels.survivors.score_survivors`."""
    found = [
        refine(vectors, keys, query[None], _slots_of(bits[row], len(vectors))[None], k)
        for row, query in zip(filters.tolist(), queries, strict=True)
    ]
    return torch.cat([best for best, _ in found]), torch.cat([slots for _, slots in found])


def _slots_of(bits: Tensor, count: int) -> Tensor:
    slots = set_bits(bits[None]).slots
    slots = slots[slots < count]
    return slots if len(slots) else slots.new_full((1,), -1)


def chosen_probes(its: Arguments) -> Pairs:
    """The clusters that are probed, `[Q, P]`, and the exact scores `[Q, C]` of their centroids."""
    coarse = centroids.reference(its.centroid_codes, its.centroid_scales, its.queries)
    chosen = probes.reference(
        coarse, its.sizes, its.offsets, its.planes, its.programs, its.filters, its.least, its.visit, its.passing
    )
    return chosen, probed_scores(its.centroids, its.queries, chosen)


def probed_scores(centres: Tensor, queries: Tensor, chosen: Tensor) -> Tensor:
    """`silverray.kernels.centroids.probed_scores`."""
    rows, columns = torch.nonzero(chosen >= 0, as_tuple=True)
    bases = queries.new_zeros(len(queries), len(centres))
    bases[rows, chosen[rows, columns]] = scores.reference(centres, queries, rows, chosen[rows, columns])
    return bases


def retrieve(its: Arguments) -> Pairs:
    """`silverray.kernels.retrieve.retrieve`, with room for everything."""
    best = its.queries.new_full((len(its.queries), its.k), -torch.inf)
    slots = its.filters.new_full(best.shape, -1)
    (few,), (many,) = (torch.nonzero(part, as_tuple=True) for part in (its.survivors, ~its.survivors))
    if len(many):
        part = its.of(many)
        kept = scan(part, *chosen_probes(part), its.keep)[1]
        best[many], slots[many] = refine(its.vectors, its.keys, part.queries, kept, its.k)
    if len(few):
        part = its.of(few)
        bits = programs.reference(its.planes, its.programs)
        best[few], slots[few] = survivors(its.vectors, its.keys, bits, part.filters, part.queries, its.k)
    return best, slots


def scan(its: Arguments, chosen: Tensor, bases: Tensor, keep: int) -> Pairs:
    """`silverray.kernels.scan.scan`."""
    return scan_reference.scan(
        its.codes, its.scales, its.keys, its.offsets, its.planes, its.programs, its.filters, its.queries, chosen,
        bases, keep,
    )  # fmt: skip


class Traffic(NamedTuple):
    """What a scan cannot do without.

    Attributes:
        rows: items that pass for any query that probes their list: their codes are read.
        words: filter words of the probed lists, of each program that is asked there.
        scores: pairs of query and item: each is written.
    """

    rows: int
    words: int
    scores: int

    def bytes(self, dimensions: int) -> int:
        """Bytes read (codes, scales, filter bits) and written (a score and a slot each)."""
        return self.rows * (dimensions + 4) + 8 * self.words + 8 * self.scores


def scan_traffic(its: Arguments, bits: Tensor, chosen: Tensor) -> Traffic:
    """Count the least that a scan of these queries reads and writes."""
    clusters, items = len(its.sizes), len(its.codes)
    probed = torch.zeros(len(chosen), clusters + 1, dtype=torch.bool, device=chosen.device)
    probed.scatter_(1, torch.where(chosen >= 0, chosen, clusters), True)
    probed = probed[:, :-1]
    pairs = (count_ranges(bits, its.offsets)[its.filters] * probed).sum()
    union = torch.zeros(bits.shape[1], dtype=torch.int64, device=bits.device)
    for start in range(0, len(chosen), max(1, RANGES // max(1, items))):
        part = slice(start, start + max(1, RANGES // max(1, items)))
        mine = bits[its.filters[part]] & range_bits(probed[part], its.offsets, bits.shape[1])
        for row in mine:
            union |= row
    asked = torch.zeros(len(bits), clusters, device=bits.device).index_add_(0, its.filters, probed.float()) > 0
    words = (its.offsets[1:] + 63) // 64 - its.offsets[:-1] // 64
    rows = count_ranges(union[None], its.offsets).sum()
    return Traffic(int(rows), int((asked * words).sum()), int(pairs))


def recall(vectors: Tensor, queries: Tensor, slots: Tensor, least: Tensor) -> float:
    """Share of the wanted items that were found, ties counted as hits.

    Args:
        vectors: `[N, D]` float32.
        queries: `[Q, D]` float32.
        slots: `[Q, k]` int64 that were found; -1 is none.
        least: `[Q]` float32, the k-th true score.
    """
    rows = torch.arange(len(queries), device=queries.device)[:, None].expand_as(slots)
    exact = scores.reference(vectors, queries, rows.flatten(), slots.flatten()).view(slots.shape)
    return float((exact >= least[:, None] - 1e-5).float().mean())


def true_scores(vectors: Tensor, queries: Tensor, passing: Tensor, k: int) -> Tensor:
    """The k best exact scores `[Q, k]` of the items that pass (`[Q, N]` bool), by brute force in float32."""
    step = max(1, (1 << 28) // max(1, len(queries)))
    best = queries.new_full((len(queries), k), -torch.inf)
    for start in range(0, len(vectors), step):
        part = slice(start, start + step)
        found = (queries @ vectors[part].T).masked_fill_(~passing[:, part], -torch.inf)
        both = torch.cat([best, torch.topk(found, min(k, found.shape[1]), dim=1).values], dim=1)
        best = torch.topk(both, k, dim=1).values
    return best
