"""Launching the scan on a CPU: from tensors to addresses."""

from __future__ import annotations

import torch
from torch import Tensor

from silverray.kernels.cpu.launch import code_rows, padded_floats, use_threads, workspace
from silverray.kernels.cpu.quantize import quantize
from silverray.kernels.cpu.scan import scan_lists
from silverray.kernels.cpu.scan_frame import BFLOATS, CODES, FLOATS, Batch, Frame, Lists, Work, capacity_for, work_sizes
from silverray.kernels.rows import LANES, LINE, aligned_planes, aligned_rows

MAX_SLOTS = 1 << 31
"""Slots are int32 in a buffer."""
MAX_BUFFER = 1 << 22
"""Most candidates that the buffers of one worker hold (32 MiB)."""


def code_lists(codes: Tensor, scales: Tensor, keys: Tensor, offsets: Tensor, planes: Tensor) -> Lists:
    """`Lists` of codes; the tensors must outlive it and be as `aligned_rows` and `aligned_planes` make them."""
    if len(codes) >= MAX_SLOTS:
        raise ValueError(f"codes: expected fewer than {MAX_SLOTS} slots on a CPU, got {len(codes)}")
    return Lists(
        CODES, *code_rows(codes), len(codes), scales.data_ptr(),
        keys.data_ptr(), offsets.data_ptr(), len(offsets) - 1, planes.data_ptr(), planes.shape[1],
    )  # fmt: skip


def vector_lists(vectors: Tensor, keys: Tensor) -> Lists:
    """`Lists` of stored vectors without clusters and planes; the tensors must outlive it and be laid out already."""
    if len(vectors) >= MAX_SLOTS:
        raise ValueError(f"vectors: expected fewer than {MAX_SLOTS} slots on a CPU, got {len(vectors)}")
    return Lists(
        FLOATS if vectors.dtype == torch.float32 else BFLOATS, vectors.data_ptr(),
        vectors.stride(0) * vectors.element_size(), 0, -(-vectors.shape[1] // LANES), len(vectors), 0, keys.data_ptr(),
        0, 0, 0, 0,
    )  # fmt: skip


def launch_scan(
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
    """Run the kernel of `silverray.kernels.scan.scan`."""
    count, width = queries.shape
    rows, planes = aligned_rows(codes), aligned_planes(planes)
    scales, keys, offsets = scales.contiguous(), keys.contiguous(), offsets.contiguous()
    queries, programs, filters = queries.contiguous(), programs.contiguous(), filters.contiguous()
    probes, centroid_scores = probes.contiguous(), centroid_scores.contiguous()
    stride = -(-width // LINE) * LINE
    # Not from the workspace, which the scan itself lays out anew; torch aligns what it allocates to cache lines.
    codes_of = torch.empty(count, stride, dtype=torch.int8)
    scales_of, sums_of = torch.empty(count, dtype=torch.float32), torch.empty(count, dtype=torch.int64)
    coded, query_scales, sums = codes_of.data_ptr(), scales_of.data_ptr(), sums_of.data_ptr()
    quantize(queries.data_ptr(), count, width, coded, stride, query_scales, sums)
    batch = Batch(
        programs.data_ptr(), len(programs), programs.shape[1], filters.data_ptr(), count, coded, stride,
        query_scales, sums, centroid_scores.data_ptr(), probes.data_ptr(), probes.shape[1], keep,
    )  # fmt: skip
    return _launch(code_lists(rows, scales, keys, offsets, planes), batch, ordered=False)


def launch_exact(
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
    """Run the kernel of `silverray.kernels.scan.exact_scan`."""
    rows, planes, wide = aligned_rows(vectors), aligned_planes(planes), padded_floats(queries)
    keys, offsets = keys.contiguous(), offsets.contiguous()
    programs, filters, probes = programs.contiguous(), filters.contiguous(), probes.contiguous()
    lists = vector_lists(rows, keys)._replace(
        offsets=offsets.data_ptr(), clusters=len(offsets) - 1, planes=planes.data_ptr(), words=planes.shape[1]
    )
    batch = Batch(
        programs.data_ptr(), len(programs), programs.shape[1], filters.data_ptr(), len(wide), wide.data_ptr(),
        4 * wide.shape[1], 0, 0, 0, probes.data_ptr(), probes.shape[1], k,
    )  # fmt: skip
    return _launch(lists, batch, ordered=True)


def _launch(lists: Lists, batch: Batch, *, ordered: bool) -> tuple[Tensor, Tensor]:
    """Scan, as many queries at a time as the buffers may hold."""
    threads, keep = use_threads(), batch.keep
    step = max(1, min(batch.size, MAX_BUFFER // capacity_for(keep)))
    sizes = work_sizes(threads, step, batch.columns, keep)
    *parts, spare = workspace(*sizes, 16 * step * keep if ordered else 0)
    work = Work(threads, capacity_for(keep), *parts)
    scores, places = torch.empty(batch.size, keep), torch.empty(batch.size, keep, dtype=torch.int64)
    for start in range(0, batch.size, step):
        some = batch._replace(
            filters=batch.filters + 8 * start,
            size=min(step, batch.size - start),
            queries=batch.queries + batch.stride * start,
            scales=batch.scales + 4 * start,
            sums=batch.sums + 8 * start,
            bases=batch.bases + 4 * start * lists.clusters,
            probes=batch.probes + 8 * start * batch.columns,
        )
        at = start * keep
        scan_lists(
            Frame(lists, some, work), batch.columns, scores.data_ptr() + 4 * at, places.data_ptr() + 8 * at,
            spare if ordered else 0,
        )  # fmt: skip
    return scores, places
