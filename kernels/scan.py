"""The probed scan: the best slots that pass a filter, in the clusters that a query probes.

Letters: N slots, D dimensions, C clusters, Q queries, P probes, R planes, W words, U programs, L instructions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from silverray.kernels import scan_reference
from silverray.kernels.checks import check
from silverray.kernels.ops import define, lazily
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
    check_lists(codes, keys, offsets, planes, programs, filters, queries)
    check("scales", scales, torch.float32, codes.shape[0])
    check("probes", probes, torch.int64, queries.shape[0], None)
    check("centroid_scores", centroid_scores, torch.float32, queries.shape[0], offsets.shape[0] - 1)
    return TopK(*_scan(codes, scales, keys, offsets, planes, programs, filters, queries, probes, centroid_scores, keep))


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
    check_lists(vectors, keys, offsets, planes, programs, filters, queries)
    check("probes", probes, torch.int64, queries.shape[0], None)
    return TopK(*_exact_scan(vectors, keys, offsets, planes, programs, filters, queries, probes, k))


def check_lists(
    rows: Tensor, keys: Tensor, offsets: Tensor, planes: Tensor, programs: Tensor, filters: Tensor, queries: Tensor
) -> None:
    """Raise a `ValueError` unless what a scan reads fits its rows `[N, D]`."""
    check("keys", keys, torch.int64, rows.shape[0])
    check("offsets", offsets, torch.int64, None)
    check("planes", planes, torch.int64, None, None)
    if planes.shape[1] * 64 < rows.shape[0]:
        raise ValueError(f"planes: expected words for {rows.shape[0]} slots, got {list(planes.shape)}")
    check("programs", programs, torch.int32, None, None)
    check("queries", queries, torch.float32, None, rows.shape[1])
    check("filters", filters, torch.int64, queries.shape[0])


_scan = define(
    "scan",
    scan_reference.scan,
    cpu=lazily("cpu.scan_launch.launch_scan"),
    cuda=lazily("gpu.scan.launch"),
    fake=lambda queries, filters, keep, **_: (
        queries.new_empty(queries.shape[0], keep),
        filters.new_empty(queries.shape[0], keep),
    ),
)
_exact_scan = define(
    "exact_scan",
    scan_reference.exact_scan,
    cpu=lazily("cpu.scan_launch.launch_exact"),
    cuda=lazily("gpu.scan.launch_exact"),
    fake=lambda queries, filters, k, **_: (
        queries.new_empty(queries.shape[0], k),
        filters.new_empty(queries.shape[0], k),
    ),
)
