"""The probed scan: coarse scores of the slots that pass a filter, in the clusters that a query probes.

Letters: N slots, D dimensions, C clusters, B filters, W words, Q queries, P probes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from silverray.kernels.bits import read_bits
from silverray.kernels.topk import TopK, top_k

MAX_SCORES = 1 << 24
"""Most coarse scores that the reference holds at a time (64 MiB)."""
EXACT_FLOAT_SUM = 1 << 24
"""Integers up to here are exact in float32."""


def scan(
    codes: Tensor,
    scales: Tensor,
    keys: Tensor,
    offsets: Tensor,
    bits: Tensor,
    queries: Tensor,
    query_scales: Tensor,
    probes: Tensor,
    probe_scores: Tensor,
    keep: int,
) -> TopK:
    """Find the best slots of each query by coarse score.

    The score of slot s in cluster c is `probe_score(c) + scales[s] · query_scale · dot(query, codes[s])`: the
    centroid's part in full precision, the residual's in int8.

    Args:
        codes: `[N, D]` int8 residual codes, in cluster order.
        scales: `[N]` float32.
        keys: `[N]` int64 item keys, by which equal scores are ordered.
        offsets: `[C + 1]` int64; cluster c holds slots `offsets[c]` to `offsets[c + 1]`, end excluded.
        bits: `[Q, W]` int64; slot s is scored for query q only if its bit is set.
        queries: `[Q, D]` int8 quantised queries.
        query_scales: `[Q]` float32.
        probes: `[Q, P]` int64 clusters to scan, each at most once; -1 is none.
        probe_scores: `[Q, P]` float32 `q·centroid` of each probe.
        keep: how many slots to keep per query.

    Returns:
        A `TopK` of `keep` per query, by (score desc, key asc), whose places are slots.

    Raises:
        ValueError: a wrong dtype or shape.

    Cost:
        Reads each probed list once per batch: D + 12 bytes per slot.

    Source:
        Index as model with fused filtering: arXiv 2511.14881; residual coding as in IVF-PQ (Jégou et al., 2011).
    """
    if codes.dtype != torch.int8 or codes.dim() != 2:
        raise ValueError(f"codes: expected [N, D] int8, got {list(codes.shape)} {codes.dtype}")
    if queries.dtype != torch.int8 or queries.shape[1:] != codes.shape[1:]:
        raise ValueError(f"queries: expected [Q, {codes.shape[1]}] int8, got {list(queries.shape)}")
    if probes.shape != probe_scores.shape or len(probes) != len(queries):
        raise ValueError(f"probes: expected [{len(queries)}, P] like probe_scores, got {list(probes.shape)}")
    if bits.dtype != torch.int64 or len(bits) != len(queries) or bits.shape[1] * 64 < len(codes):
        raise ValueError(f"bits: expected [{len(queries)}, W] int64 for {len(codes)} slots, got {list(bits.shape)}")
    return TopK(
        *torch.ops.silverray.scan(codes, scales, keys, offsets, bits, queries, query_scales, probes, probe_scores, keep)
    )


@torch.library.custom_op("silverray::scan", mutates_args=())
def _scan(
    codes: Tensor,
    scales: Tensor,
    keys: Tensor,
    offsets: Tensor,
    bits: Tensor,
    queries: Tensor,
    query_scales: Tensor,
    probes: Tensor,
    probe_scores: Tensor,
    keep: int,
) -> tuple[Tensor, Tensor]:
    sizes = torch.where(probes >= 0, offsets.diff()[probes.clamp(min=0)], 0)
    width = int(sizes.sum(1).max()) if len(probes) else 0
    step = max(1, MAX_SCORES // max(1, width))
    parts = []
    for start in range(0, len(probes), step):
        some = slice(start, start + step)
        scores, slots = _score_probes(
            codes, scales, offsets, bits[some], queries[some], query_scales[some], probes[some],
            probe_scores[some], sizes[some],
        )  # fmt: skip
        found = top_k(scores, keys[slots], keep)
        slots = slots.gather(1, found.places.clamp(min=0)) if slots.shape[1] else found.places
        parts.append((found.scores, torch.where(found.places >= 0, slots, -1)))
    if not parts:
        return probe_scores.new_empty(0, keep), probes.new_empty(0, keep)
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


@_scan.register_fake
def _(
    codes: Tensor,
    scales: Tensor,
    keys: Tensor,
    offsets: Tensor,
    bits: Tensor,
    queries: Tensor,
    query_scales: Tensor,
    probes: Tensor,
    probe_scores: Tensor,
    keep: int,
) -> tuple[Tensor, Tensor]:
    return probe_scores.new_empty(len(probes), keep), probes.new_empty(len(probes), keep)


def _score_probes(
    codes: Tensor,
    scales: Tensor,
    offsets: Tensor,
    bits: Tensor,
    queries: Tensor,
    query_scales: Tensor,
    probes: Tensor,
    probe_scores: Tensor,
    sizes: Tensor,
) -> tuple[Tensor, Tensor]:
    """Score every probed slot: `[Q, L]` scores (-inf where filtered out) and slots, each cluster read once."""
    exact = torch.float32 if codes.shape[1] * 127 * 127 <= EXACT_FLOAT_SUM else torch.float64
    wide_queries = queries.to(exact)
    places = sizes.cumsum(1) - sizes
    scores = probe_scores.new_full((len(probes), int(sizes.sum(1).max())), -torch.inf)
    slots = torch.zeros_like(scores, dtype=torch.int64)
    flat = probes.flatten()
    order = torch.argsort(flat, stable=True)
    clusters, counts = torch.unique_consecutive(flat[order], return_counts=True)
    bounds = offsets.tolist()
    for cluster, pairs in zip(clusters.tolist(), torch.split(order, counts.tolist()), strict=True):
        first, last = (bounds[cluster], bounds[cluster + 1]) if cluster >= 0 else (0, 0)
        if first == last:
            continue
        rows, members = pairs // probes.shape[1], torch.arange(first, last, device=codes.device)
        dots = (wide_queries[rows] @ codes[first:last].to(exact).T).float()
        step = query_scales[rows, None] * scales[None, first:last]
        found = probe_scores.flatten()[pairs, None] + step * dots
        found.masked_fill_(~read_bits(bits, rows[:, None], members), -torch.inf)
        columns = places.flatten()[pairs, None] + (members - first)
        scores[rows[:, None], columns] = found
        slots[rows[:, None], columns] = members.expand(len(rows), -1)
    return scores, slots
