"""Retrieving: probe, scan and refine in one, for filters that need no verification.

Letters: N slots, D dimensions, C clusters, Q queries, R planes, W words, U programs, L instructions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from silverray.kernels.checks import check
from silverray.kernels.ops import define, lazily
from silverray.kernels.probes import check_demands, choose_probes
from silverray.kernels.refine import refine
from silverray.kernels.scan import check_lists, scan
from silverray.kernels.topk import TopK


def retrieve(
    codes: Tensor,
    scales: Tensor,
    vectors: Tensor,
    keys: Tensor,
    offsets: Tensor,
    sizes: Tensor,
    planes: Tensor,
    programs: Tensor,
    filters: Tensor,
    queries: Tensor,
    centroid_scores: Tensor,
    least: Tensor,
    visit: Tensor,
    passing: Tensor,
    keep: int,
    k: int,
) -> TopK:
    """Choose clusters, scan them and refine what was kept: `choose_probes`, `scan` and `refine` after each other.

    On a CPU they are one call, which is what makes a single query cheap.

    Args:
        codes: `[N, D]` int8, see `scan`, as for `scales`, `keys`, `offsets`, `planes`, `programs`, `filters`,
            `queries`, `centroid_scores` and `keep`.
        scales: `[N]` float32.
        vectors: `[N, D]` float32 or bfloat16, see `refine`.
        keys: `[N]` int64.
        offsets: `[C + 1]` int64.
        sizes: `[C]` int64, see `choose_probes`, as for `least`, `visit` and `passing`.
        planes: `[R, W]` int64.
        programs: `[U, L]` int32.
        filters: `[Q]` int64.
        queries: `[Q, D]` float32.
        centroid_scores: `[Q, C]` float32.
        least: `[Q]` int64.
        visit: `[Q]` int64.
        passing: `[Q]` int64.
        keep: candidates of each query.
        k: how many of them to select.

    Returns:
        A `TopK` by (score desc, key asc) whose places are slots.

    Raises:
        ValueError: a wrong dtype or shape.
    """
    if codes.shape != vectors.shape or codes.dtype != torch.int8:
        raise ValueError(f"codes: expected {list(vectors.shape)} int8, got {list(codes.shape)} {codes.dtype}")
    if vectors.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"vectors: expected float32 or bfloat16, got {vectors.dtype}")
    check_lists(codes, keys, offsets, planes, programs, filters, queries)
    check("scales", scales, torch.float32, len(codes))
    check("centroid_scores", centroid_scores, torch.float32, len(queries), None)
    check_demands(centroid_scores, sizes, offsets, least, visit, passing)
    return TopK(
        *_retrieve(
            codes, scales, vectors, keys, offsets, sizes, planes, programs, filters, queries,
            centroid_scores, least, visit, passing, keep, k,
        )
    )  # fmt: skip


def reference(
    codes: Tensor,
    scales: Tensor,
    vectors: Tensor,
    keys: Tensor,
    offsets: Tensor,
    sizes: Tensor,
    planes: Tensor,
    programs: Tensor,
    filters: Tensor,
    queries: Tensor,
    centroid_scores: Tensor,
    least: Tensor,
    visit: Tensor,
    passing: Tensor,
    keep: int,
    k: int,
) -> tuple[Tensor, Tensor]:
    """`retrieve` by the other ops: the specification."""
    probes = choose_probes(centroid_scores, sizes, offsets, planes, programs, filters, least, visit, passing)
    coarse = scan(codes, scales, keys, offsets, planes, programs, filters, queries, probes, centroid_scores, keep)
    best = refine(vectors, keys, queries, coarse.places, k)
    return best.scores, best.places


_retrieve = define(
    "retrieve",
    reference,
    cpu=lazily("retrieve_numba.launch"),
    fake=lambda queries, filters, k, **_: (queries.new_empty(len(queries), k), filters.new_empty(len(queries), k)),
)
