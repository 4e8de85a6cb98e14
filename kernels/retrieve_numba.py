"""Probe, scan and refine on a CPU in one call. The letters are those of `silverray.kernels.retrieve`."""

from __future__ import annotations

import torch
from numba import prange
from torch import Tensor

from silverray.kernels import probes_numba
from silverray.kernels.jit import kernel, parallel_kernel
from silverray.kernels.launch import padded_floats, use_threads, workspace
from silverray.kernels.probes_numba import Probing, choose_all
from silverray.kernels.refine_numba import cache_of, rank_slots, write_best
from silverray.kernels.rows import LINE, aligned_planes, aligned_rows
from silverray.kernels.scan_frame import Batch, Frame, Work, capacity_for, work_sizes
from silverray.kernels.scan_launch import MAX_BUFFER, code_lists
from silverray.kernels.scan_numba import fill_buffers, merge, quantize


def launch(
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
    """Run the kernels, as many queries at a time as the buffers may hold; see `silverray.kernels.retrieve.retrieve`."""
    codes, vectors, planes = aligned_rows(codes), aligned_rows(vectors), aligned_planes(planes)
    (
        scales, keys, offsets, sizes, programs, filters, queries, centroid_scores, least, visit, passing
    ) = (
        part.contiguous()
        for part in (
            scales, keys, offsets, sizes, programs, filters, queries, centroid_scores, least, visit,
            passing,
        )
    )  # fmt: skip
    count, width = queries.shape
    clusters, wide, threads = len(sizes), padded_floats(queries), use_threads()
    step, stride = max(1, min(count, MAX_BUFFER // capacity_for(keep))), -(-width // LINE) * LINE
    parts = workspace(
        step * stride, 4 * step, 8 * step, 8 * step * clusters, *probes_numba.work_sizes(step, clusters),
        *work_sizes(threads, step, clusters, keep), 16 * step * k, LINE * step,
    )  # fmt: skip
    coded, query_scales, sums, probes, *rest = parts
    *choosing, spare, lanes = rest
    probe_work, scan_work = choosing[:3], choosing[3:]
    lists, cache = code_lists(codes, scales, keys, offsets, planes), cache_of(vectors, keys)
    scores, places = torch.empty(count, k), torch.empty(count, k, dtype=torch.int64)
    for start in range(0, count, step):
        some, at = min(step, count - start), 8 * start
        bases = centroid_scores.data_ptr() + 4 * clusters * start
        probing = Probing(
            bases, some, clusters, sizes.data_ptr(), offsets.data_ptr(), planes.data_ptr(), planes.shape[1],
            programs.data_ptr(), len(programs), programs.shape[1],
            filters.data_ptr() + at, least.data_ptr() + at, visit.data_ptr() + at, passing.data_ptr() + at, probes,
            *probe_work,
        )  # fmt: skip
        batch = Batch(
            programs.data_ptr(), len(programs), programs.shape[1], filters.data_ptr() + at, some, coded, stride,
            query_scales, sums, bases, probes, clusters, keep,
        )  # fmt: skip
        _retrieve(
            probing, lists, batch, Work(threads, capacity_for(keep), *scan_work), cache,
            queries.data_ptr() + 4 * width * start, width, wide.data_ptr() + 4 * wide.shape[1] * start,
            4 * wide.shape[1], spare, lanes, scores.data_ptr() + 4 * k * start, places.data_ptr() + 8 * k * start, k,
        )  # fmt: skip
    return scores, places


@kernel
def _retrieve(probing, lists, batch, work, cache, queries, width, wide, wide_stride, spare, sums, scores, places, k):
    quantize(queries, batch.size, width, batch.queries, batch.stride, batch.scales, batch.sums)
    fill_buffers(Frame(lists, batch, work), choose_all(probing))
    _refine_all(lists, batch, work, cache, wide, wide_stride, spare, sums, scores, places, k)


@parallel_kernel
def _refine_all(lists, batch, work, cache, wide, wide_stride, spare, sums, scores, places, k):
    for query in prange(batch.size):
        _refine_kept(
            Frame(lists, batch, work), cache, query, wide + wide_stride * query, spare + 16 * k * query,
            sums + LINE * query, scores + 4 * k * query, places + 8 * k * query, k,
        )  # fmt: skip


@kernel
def _refine_kept(frame, cache, query, wide, spare, sums, scores, places, k):
    """Score what the scan kept of one query exactly and write the k best."""
    work = frame.work
    count = merge(frame, query)
    at = 4 * work.capacity * query
    rank_slots(cache, wide, work.slots + at, count, work.ranks + at, sums)
    write_best(work.ranks + at, work.slots + at, count, k, cache.keys, spare, scores, places)
