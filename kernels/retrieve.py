"""Retrieving: probe, scan and refine in one, for filters that need no verification.

Letters: N slots, D dimensions, C clusters, Q queries, R planes, W words, U programs, L instructions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from silverray.kernels.centroids import probed_scores, score_centroids
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
    centroids: Tensor,
    centroid_codes: Tensor,
    centroid_scales: Tensor,
    least: Tensor,
    visit: Tensor,
    passing: Tensor,
    keep: int,
    k: int,
) -> TopK:
    """Choose clusters, scan them and refine what was kept: `score_centroids`, `choose_probes`, `scan` and `refine`.

    On a CPU they are one call, which is what makes a single query cheap.

    Args:
        codes: `[N, D]` int8, see `scan`, as for `scales`, `keys`, `offsets`, `planes`, `programs`, `filters`,
            `queries` and `keep`.
        scales: `[N]` float32.
        vectors: `[N, D]` float32 or bfloat16, see `refine`.
        keys: `[N]` int64.
        offsets: `[C + 1]` int64.
        sizes: `[C]` int64, see `choose_probes`, as for `least`, `visit` and `passing`.
        planes: `[R, W]` int64.
        programs: `[U, L]` int32.
        filters: `[Q]` int64.
        queries: `[Q, D]` float32.
        centroids: `[C, D]` float32; gaps between rows must hold finite numbers.
        centroid_codes: `[C, D]` int8, see `score_centroids`, as for `centroid_scales`.
        centroid_scales: `[C]` float32.
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
    clusters = offsets.shape[0] - 1
    check("centroids", centroids, torch.float32, clusters, codes.shape[1])
    check("centroid_codes", centroid_codes, torch.int8, clusters, codes.shape[1])
    check("centroid_scales", centroid_scales, torch.float32, clusters)
    check_demands(queries.shape[0], sizes, offsets, least, visit, passing)
    return TopK(
        *_retrieve(
            codes, scales, vectors, keys, offsets, sizes, planes, programs, filters, queries,
            centroids, centroid_codes, centroid_scales, least, visit, passing, keep, k,
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
    centroids: Tensor,
    centroid_codes: Tensor,
    centroid_scales: Tensor,
    least: Tensor,
    visit: Tensor,
    passing: Tensor,
    keep: int,
    k: int,
) -> tuple[Tensor, Tensor]:
    """`retrieve` by the other ops: the specification."""
    scores = score_centroids(centroid_codes, centroid_scales, queries)
    probes = choose_probes(scores, sizes, offsets, planes, programs, filters, least, visit, passing)
    bases = probed_scores(centroids, queries, probes)
    coarse = scan(codes, scales, keys, offsets, planes, programs, filters, queries, probes, bases, keep)
    best = refine(vectors, keys, queries, coarse.places, k)
    return best.scores, best.places


_retrieve = define(
    "retrieve",
    reference,
    cpu=lazily("retrieve_numba.launch"),
    fake=lambda queries, filters, k, **_: (queries.new_empty(len(queries), k), filters.new_empty(len(queries), k)),
)
