"""Scoring centroids on a CPU: block after block of them, for one query after another.

Letters: C clusters, D dimensions, Q queries.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import carray, prange
from torch import Tensor

from silverray.kernels.cpu.jit import kernel, parallel_kernel
from silverray.kernels.cpu.launch import code_rows, use_threads, workspace
from silverray.kernels.cpu.quantize import quantize
from silverray.kernels.cpu.refine import exact_dots
from silverray.kernels.cpu.simd import (
    coarse_scores,
    code_bias,
    dot_rows,
    dot_run,
    load_float,
    load_int64,
    pointer,
    store_float,
    store_int32,
)
from silverray.kernels.rows import LANES, LINE, aligned_rows

BLOCK = 128
"""Centroids that are scored for one query after another: 16 KiB of 128 dimensions."""
SCRATCH = 3 * LINE
"""Bytes that each block works in."""
_BIAS = code_bias()


class Centroids(NamedTuple):
    """Centroids in int8 and in full: addresses and sizes.

    Attributes:
        codes: address of `[C]` rows of codes, each a multiple of 64 bytes.
        stride: bytes from row to row.
        packed: 1 where `dot_run` takes the rows.
        chunks: 64-byte chunks of a row.
        scales: address of `[C]` float32.
        clusters: C.
        rows: address of the `[C]` centroids themselves, float32 rows of whole cache lines; 0 where only codes are read.
        row_stride: bytes from row to row of these.
        row_chunks: 16-lane chunks of such a row.
    """

    codes: int
    stride: int
    packed: int
    chunks: int
    scales: int
    clusters: int
    rows: int
    row_stride: int
    row_chunks: int


def coded_centroids(codes: Tensor, scales: Tensor) -> Centroids:
    """`Centroids` of codes only; the tensors must outlive it and be laid out already."""
    return Centroids(*code_rows(codes), scales.data_ptr(), codes.shape[0], 0, 0, 0)


def block_scratch(clusters: int) -> int:
    """Bytes that `score_all` works in."""
    return SCRATCH * (-(-clusters // BLOCK))


def launch(codes: Tensor, scales: Tensor, queries: Tensor) -> Tensor:
    """Run the kernel of `silverray.kernels.centroids.score_centroids`."""
    use_threads()
    codes, scales, queries = aligned_rows(codes), scales.contiguous(), queries.contiguous()
    count, width = queries.shape
    stride = -(-width // LINE) * LINE
    coded, query_scales, sums, scratch = workspace(count * stride, 4 * count, 8 * count, block_scratch(codes.shape[0]))
    scores = torch.empty(count, codes.shape[0])
    quantize(queries.data_ptr(), count, width, coded, stride, query_scales, sums)
    score_all(coded_centroids(codes, scales), coded, stride, query_scales, sums, count, scores.data_ptr(), scratch)
    return scores


@kernel
def score_all(centroids, queries, stride, query_scales, sums, count, scores, scratch):
    """Write the scores `[Q, C]` of quantised queries; all but `centroids`, `stride` and `count` are addresses."""
    if count == 1:
        _score_block(centroids, queries, stride, query_scales, sums, 1, scores, scratch, 0, centroids.clusters)
    else:
        _score_blocks(centroids, queries, stride, query_scales, sums, count, scores, scratch)


@parallel_kernel
def _score_blocks(centroids, queries, stride, query_scales, sums, count, scores, scratch):
    for block in prange(-(-centroids.clusters // BLOCK)):
        first = block * BLOCK
        last = min(centroids.clusters, first + BLOCK)
        mine = scratch + SCRATCH * block
        _score_block(centroids, queries, stride, query_scales, sums, count, scores, mine, first, last)


@kernel
def _score_block(centroids, queries, stride, query_scales, sums, count, scores, scratch, first, last):
    nothing, slots, rest = scratch, scratch + LINE, scratch + 2 * LINE
    carray(pointer(nothing), (LANES,), np.float32)[:] = 0
    for query in range(count):
        vector, scale = queries + stride * query, load_float(query_scales + 4 * query)
        bias = np.int32(_BIAS * load_int64(sums + 8 * query))
        for cluster in range(first, last, LANES):
            out = scores + 4 * (centroids.clusters * query + cluster)
            whole = cluster + LANES <= last
            if whole and centroids.packed:
                dot_run(centroids.codes + cluster * centroids.stride, vector, centroids.chunks, out)
            else:
                for lane in range(LANES):
                    store_int32(slots + 4 * lane, np.int32(min(cluster + lane, last - 1)))
                target = out if whole else rest
                dot_rows(centroids.codes, centroids.stride, slots, vector, centroids.chunks, target)
            if whole:
                coarse_scores(out, bias, centroids.scales + 4 * cluster, nothing, scale)
            else:
                _score_rest(centroids, bias, nothing, scale, rest, slots, cluster, last, out)


@kernel
def _score_rest(centroids, bias, nothing, scale, rest, slots, cluster, last, out):
    """Score fewer than 16 centroids, whose products are at `rest`."""
    for lane in range(LANES):
        store_float(slots + 4 * lane, load_float(centroids.scales + 4 * min(cluster + lane, last - 1)))
    coarse_scores(rest, bias, slots, nothing, scale)
    for lane in range(last - cluster):
        store_float(out + 4 * lane, load_float(rest + 4 * lane))


@kernel
def score_probed(centroids, probes, number, query, bases, scratch):
    """Write the exact scores of the first `number` of a query's probes to their places in `bases`, `[C]` float32.

    `query` is the address of the padded query, `scratch` that of two cache lines.
    """
    slots, sums = scratch, scratch + LINE
    for first in range(0, number, LANES):
        for lane in range(LANES):
            place = min(first + lane, number - 1)
            store_int32(slots + 4 * lane, np.int32(load_int64(probes + 8 * place)))
        exact_dots(0, centroids.rows, centroids.row_stride, slots, query, centroids.row_chunks, sums)
        for lane in range(min(LANES, number - first)):
            cluster = load_int64(probes + 8 * (first + lane))
            store_float(bases + 4 * cluster, load_float(sums + 4 * lane))
