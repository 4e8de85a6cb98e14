"""The probed scan: the best slots that pass a filter, in the clusters that a query probes.

Letters: N slots, D dimensions, C clusters, Q queries, P probes, R planes, W words, U programs, L instructions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from silverray.kernels import scan_reference
from silverray.kernels.topk import TopK


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
) -> TopK:
    """Find the best slots of each query by coarse score.

    The score of slot s in cluster c is `q·centroid(c) + scales[s] · query_scale · dot(query, codes[s])`: the
    centroid's part in full precision, the residual's in int8, the query quantised as by `quantize_rows`.

    Args:
        codes: `[N, D]` int8 residual codes, in cluster order.
        scales: `[N]` float32.
        keys: `[N]` int64 item keys, by which equal scores are ordered.
        offsets: `[C + 1]` int64; cluster c holds slots `offsets[c]` to `offsets[c + 1]`, end excluded.
        planes: `[R, W]` int64.
        programs: `[U, L]` int32 as in `evaluate_programs`; a slot is scored only if it passes.
        filters: `[Q]` int64, the program of each query.
        queries: `[Q, D]` float32.
        probes: `[Q, P]` int64 clusters to scan, each at most once; -1 is none.
        centroid_scores: `[Q, C]` float32 `q·centroid`.
        keep: how many slots to keep per query.

    Returns:
        A `TopK` whose places are slots: the `keep` best of each query by (score desc, key asc), in any order. The same
        for every number of threads.

    Raises:
        ValueError: a wrong dtype or shape.

    Cost:
        Reads the codes of a probed list once per batch, D + 12 bytes per slot that passes, and evaluates programs on
        the probed lists only. On a CPU rows that do not begin on cache lines are copied first, see `aligned_rows`.

    Source:
        Index as model with fused filtering: arXiv 2511.14881; residual coding as in IVF-PQ (Jégou et al., 2011).
    """
    if codes.dtype != torch.int8 or codes.dim() != 2:
        raise ValueError(f"codes: expected [N, D] int8, got {list(codes.shape)} {codes.dtype}")
    _check_lists(codes, planes, programs, filters, queries, probes)
    if centroid_scores.shape != (len(queries), len(offsets) - 1) or centroid_scores.dtype != torch.float32:
        raise ValueError(f"centroid_scores: expected [Q, {len(offsets) - 1}], got {list(centroid_scores.shape)}")
    return TopK(
        *torch.ops.silverray.scan(
            codes, scales, keys, offsets, planes, programs, filters, queries, probes, centroid_scores, keep
        )
    )


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
) -> TopK:
    """Find the best slots of each query by exact score, that of `exact_scores`.

    Args:
        vectors: `[N, D]` float32 or bfloat16, the item cache; gaps between rows must hold finite numbers.
        keys: as in `scan`, and so `offsets`, `planes`, `programs`, `filters`, `queries` and `probes`.
        offsets: see there.
        planes: see there.
        programs: see there.
        filters: see there.
        queries: see there.
        probes: see there.
        k: how many to select.

    Returns:
        A `TopK` by (score desc, key asc) whose places are slots.

    Raises:
        ValueError: a wrong dtype or shape.

    Cost:
        Reads D elements of the cache per slot that passes.
    """
    if vectors.dtype not in (torch.float32, torch.bfloat16) or vectors.dim() != 2:
        raise ValueError(f"vectors: expected [N, D] float32 or bfloat16, got {list(vectors.shape)} {vectors.dtype}")
    _check_lists(vectors, planes, programs, filters, queries, probes)
    return TopK(*torch.ops.silverray.exact_scan(vectors, keys, offsets, planes, programs, filters, queries, probes, k))


def _check_lists(
    rows: Tensor, planes: Tensor, programs: Tensor, filters: Tensor, queries: Tensor, probes: Tensor
) -> None:
    if queries.dtype != torch.float32 or queries.shape[1:] != rows.shape[1:]:
        raise ValueError(f"queries: expected [Q, {rows.shape[1]}] float32, got {list(queries.shape)} {queries.dtype}")
    if probes.dtype != torch.int64 or probes.dim() != 2 or len(probes) != len(queries):
        raise ValueError(f"probes: expected [{len(queries)}, P] int64, got {list(probes.shape)} {probes.dtype}")
    if planes.dtype != torch.int64 or planes.dim() != 2 or planes.shape[1] * 64 < len(rows):
        raise ValueError(f"planes: expected [R, W] int64 for {len(rows)} slots, got {list(planes.shape)}")
    if programs.dtype != torch.int32 or programs.dim() != 2:
        raise ValueError(f"programs: expected [U, L] int32, got {list(programs.shape)} {programs.dtype}")
    if filters.dtype != torch.int64 or filters.shape != (len(queries),):
        raise ValueError(f"filters: expected [{len(queries)}] int64, got {list(filters.shape)} {filters.dtype}")


@torch.library.custom_op("silverray::scan", mutates_args=())
def _scan(
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
    return scan_reference.scan(
        codes, scales, keys, offsets, planes, programs, filters, queries, probes, centroid_scores, keep
    )


@_scan.register_kernel("cpu")
def _(
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
    from silverray.kernels.scan_launch import launch_scan

    return launch_scan(codes, scales, keys, offsets, planes, programs, filters, queries, probes, centroid_scores, keep)


@_scan.register_fake
def _(
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
    return queries.new_empty(len(queries), keep), probes.new_empty(len(probes), keep)


@torch.library.custom_op("silverray::exact_scan", mutates_args=())
def _exact_scan(
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
    return scan_reference.exact_scan(vectors, keys, offsets, planes, programs, filters, queries, probes, k)


@_exact_scan.register_kernel("cpu")
def _(
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
    from silverray.kernels.scan_launch import launch_exact

    return launch_exact(vectors, keys, offsets, planes, programs, filters, queries, probes, k)


@_exact_scan.register_fake
def _(
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
    return queries.new_empty(len(queries), k), probes.new_empty(len(probes), k)
