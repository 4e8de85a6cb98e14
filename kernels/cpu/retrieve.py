"""Probe, scan and refine on a CPU in one call. The letters are those of `silverray.kernels.retrieve`."""

from __future__ import annotations

from typing import Any

import torch
from numba import prange
from torch import Tensor

from silverray.kernels.cpu import probes as probes_numba
from silverray.kernels.cpu.centroids import block_scratch, coded_centroids, score_all, score_probed
from silverray.kernels.cpu.jit import kernel, parallel_kernel
from silverray.kernels.cpu.launch import padded_floats, use_threads, workspace
from silverray.kernels.cpu.probes import Probing, choose_all
from silverray.kernels.cpu.quantize import quantize
from silverray.kernels.cpu.refine import cache_of, rank_slots, write_best
from silverray.kernels.cpu.scan import fill_buffers, merge
from silverray.kernels.cpu.scan_frame import Batch, Frame, Work, capacity_for, work_sizes
from silverray.kernels.cpu.scan_launch import MAX_BUFFER, code_lists
from silverray.kernels.cpu.simd import load_int64
from silverray.kernels.retrieve import Arguments
from silverray.kernels.rows import LANES, LINE, aligned_planes, aligned_rows
from silverray.kernels.survivors import score_passing


def launch(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Run the kernels; see `silverray.kernels.retrieve.retrieve`."""
    its = Arguments(*arguments)
    overflow = torch.zeros_like(its.survivors)
    if not its.few or not (number := int(torch.count_nonzero(its.survivors))):
        return (*_search(its), overflow)
    if number == len(overflow):
        return (*_score(its), overflow)
    scores, slots = torch.empty(len(overflow), its.k), torch.empty(len(overflow), its.k, dtype=torch.int64)
    for rows, find in ((its.survivors, _score), (~its.survivors, _search)):
        scores[rows], slots[rows] = find(its.of(rows))
    return scores, slots, overflow


def _score(its: Arguments) -> tuple[Tensor, Tensor]:
    """The best of all that passes."""
    return score_passing(its.vectors, its.keys, its.planes, its.programs, its.filters, its.queries, its.k)


def _search(its: Arguments) -> tuple[Tensor, Tensor]:
    """The best of the clusters that are probed, as many queries at a time as the buffers may hold."""
    keep, k = its.keep, its.k
    codes, vectors, planes = aligned_rows(its.codes), aligned_rows(its.vectors), aligned_planes(its.planes)
    centroids, centroid_codes = aligned_rows(its.centroids), aligned_rows(its.centroid_codes)
    (
        scales, keys, offsets, sizes, programs, filters, queries, centroid_scales, least, visit, passing
    ) = (
        part.contiguous()
        for part in (
            its.scales, its.keys, its.offsets, its.sizes, its.programs, its.filters, its.queries, its.centroid_scales,
            its.least, its.visit, its.passing,
        )
    )  # fmt: skip
    count, width = queries.shape
    clusters, wide, threads = sizes.shape[0], padded_floats(queries), use_threads()
    step, stride = max(1, min(count, MAX_BUFFER // capacity_for(keep))), -(-width // LINE) * LINE
    parts = workspace(
        step * stride, 4 * step, 8 * step, 4 * step * clusters, 4 * step * clusters, block_scratch(clusters),
        8 * step * clusters, *probes_numba.work_sizes(step, clusters), *work_sizes(threads, step, clusters, keep),
        16 * step * k, 2 * LINE * step,
    )  # fmt: skip
    coded, query_scales, sums, coarse, bases, blocks, probes, *rest = parts
    *choosing, spare, lanes = rest
    probe_work, scan_work = choosing[:3], choosing[3:]
    lists, cache = code_lists(codes, scales, keys, offsets, planes), cache_of(vectors, keys)
    coded_lists = coded_centroids(centroid_codes, centroid_scales)._replace(
        rows=centroids.data_ptr(), row_stride=4 * centroids.stride(0), row_chunks=-(-width // LANES)
    )
    scores, places = torch.empty(count, k), torch.empty(count, k, dtype=torch.int64)
    for start in range(0, count, step):
        some, at = min(step, count - start), 8 * start
        probing = Probing(
            coarse, some, clusters, sizes.data_ptr(), offsets.data_ptr(), planes.data_ptr(), planes.shape[1],
            programs.data_ptr(), len(programs), programs.shape[1],
            filters.data_ptr() + at, least.data_ptr() + at, visit.data_ptr() + at, passing.data_ptr() + at, probes,
            *probe_work,
        )  # fmt: skip
        batch = Batch(
            programs.data_ptr(), len(programs), programs.shape[1], filters.data_ptr() + at, some, coded, stride,
            query_scales, sums, bases, probes, clusters, keep,
        )  # fmt: skip
        retrieve_some(
            coded_lists, blocks, probing, lists, batch, Work(threads, capacity_for(keep), *scan_work), cache,
            queries.data_ptr() + 4 * width * start, width, wide.data_ptr() + 4 * wide.shape[1] * start,
            4 * wide.shape[1], spare, lanes, scores.data_ptr() + 4 * k * start, places.data_ptr() + 8 * k * start, k,
        )  # fmt: skip
    return scores, places


@kernel
def retrieve_some(
    centroids, blocks, probing, lists, batch, work, cache, queries, width, wide, wide_stride, spare, sums, scores,
    places, k,
):  # fmt: skip
    """Probe, scan and refine for as many queries as the buffers hold; all but the tuples and sizes are addresses."""
    quantize(queries, batch.size, width, batch.queries, batch.stride, batch.scales, batch.sums)
    score_all(
        centroids, batch.queries, batch.stride, batch.scales, batch.sums, batch.size, probing.scores, blocks
    )  # fmt: skip
    most = choose_all(probing)
    for query in range(batch.size):
        score_probed(
            centroids, batch.probes + 8 * batch.columns * query, load_int64(probing.counts + 8 * query),
            wide + wide_stride * query, batch.bases + 4 * centroids.clusters * query, sums,
        )  # fmt: skip
    fill_buffers(Frame(lists, batch, work), most)
    if batch.size == 1:
        _refine_kept(Frame(lists, batch, work), cache, 0, wide, spare, sums, scores, places, k)
    else:
        _refine_all(lists, batch, work, cache, wide, wide_stride, spare, sums, scores, places, k)


@parallel_kernel
def _refine_all(lists, batch, work, cache, wide, wide_stride, spare, sums, scores, places, k):
    for query in prange(batch.size):
        _refine_kept(
            Frame(lists, batch, work), cache, query, wide + wide_stride * query, spare + 16 * k * query,
            sums + 2 * LINE * query, scores + 4 * k * query, places + 8 * k * query, k,
        )  # fmt: skip


@kernel
def _refine_kept(frame, cache, query, wide, spare, sums, scores, places, k):
    """Score what the scan kept of one query exactly and write the k best."""
    work = frame.work
    count = merge(frame, query)
    at = 4 * work.capacity * query
    rank_slots(cache, wide, work.slots + at, count, work.ranks + at, sums)
    write_best(work.ranks + at, work.slots + at, count, k, cache.keys, spare, scores, places)
