"""Probing on a CPU: a tournament over blocks of 16 clusters gives the best of those left, as often as it is asked.

Letters: Q queries, C clusters, U programs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numba import carray, prange
from torch import Tensor

from silverray.kernels.cpu.jit import kernel, parallel_kernel
from silverray.kernels.cpu.launch import use_threads, workspace
from silverray.kernels.cpu.programs import run_program
from silverray.kernels.cpu.selection import LOWEST, flip, kth_rank
from silverray.kernels.cpu.simd import append_lanes, count_bits, first_bit, lanes_reaching, pointer
from silverray.kernels.programs import MAX_STACK
from silverray.kernels.rows import LANES, WORDS, aligned_planes

BLOCK = 64
"""Words of a list that are evaluated at a time."""
LEVEL = BLOCK + WORDS
SCRATCH = MAX_STACK * LEVEL


class Probing(NamedTuple):
    """What `choose_probes` reads and where it works and writes: addresses and sizes.

    `probes` has `clusters` places for each query, `ranks` has `rank_width(clusters)` int32, `scratch` `SCRATCH` words.
    """

    scores: int
    queries: int
    clusters: int
    sizes: int
    offsets: int
    planes: int
    words: int
    programs: int
    program_count: int
    length: int
    filters: int
    least: int
    visit: int
    passing: int
    probes: int
    counts: int
    ranks: int
    scratch: int


def rank_width(clusters: int) -> int:
    """Ranks of a query: those of its clusters and the best of every 16, each filled up to 16."""
    blocks = -(-clusters // LANES)
    return blocks * LANES + -(-blocks // LANES) * LANES


def work_sizes(queries: int, clusters: int) -> tuple[int, ...]:
    """Bytes of the parts of `Probing` from `counts` on."""
    return 8 * queries, 4 * queries * rank_width(clusters), 8 * queries * SCRATCH


def launch(
    scores: Tensor,
    sizes: Tensor,
    offsets: Tensor,
    planes: Tensor,
    programs: Tensor,
    filters: Tensor,
    least: Tensor,
    visit: Tensor,
    passing: Tensor,
) -> Tensor:
    """Run the kernel; arguments and result are those of `silverray.kernels.probes.choose_probes`."""
    use_threads()
    planes = aligned_planes(planes)
    inputs = [part.contiguous() for part in (scores, sizes, offsets, programs, filters, least, visit, passing)]
    scores, sizes, offsets, programs, filters, least, visit, passing = inputs
    count, clusters = scores.shape
    parts = workspace(*work_sizes(count, clusters))
    probes = torch.empty(count, clusters, dtype=torch.int64)
    probing = Probing(
        scores.data_ptr(), count, clusters, sizes.data_ptr(),
        offsets.data_ptr(), planes.data_ptr(), planes.shape[1], programs.data_ptr(), len(programs), programs.shape[1],
        filters.data_ptr(), least.data_ptr(), visit.data_ptr(), passing.data_ptr(), probes.data_ptr(), *parts,
    )  # fmt: skip
    width = choose_all(probing)
    return probes[:, :width]


@kernel
def choose_all(frame):
    """Choose for all queries; returns the largest number of probes of any, to which the others are filled up."""
    if frame.queries == 1:
        _choose(frame, 0)
    else:
        _choose_each(frame)
    counts = carray(pointer(frame.counts), (frame.queries,), np.int64)
    probes = carray(pointer(frame.probes), (frame.queries, frame.clusters), np.int64)
    most = np.int64(0)
    for query in range(frame.queries):
        most = max(most, counts[query])
    for query in range(frame.queries):
        probes[query, counts[query] : most] = -1
    return most


@parallel_kernel
def _choose_each(frame):
    for query in prange(frame.queries):
        _choose(frame, query)


@kernel
def _choose(frame, query):
    clusters = frame.clusters
    bits = carray(pointer(frame.scores), (frame.queries, clusters), np.int32)[query]
    blocks = -(-clusters // LANES)
    width = (blocks + -(-blocks // LANES)) * LANES
    ranks = carray(pointer(frame.ranks), (frame.queries, width), np.int32)[query]
    probes = carray(pointer(frame.probes), (frame.queries, clusters), np.int64)[query]
    counts = carray(pointer(frame.counts), (frame.queries,), np.int64)
    least = carray(pointer(frame.least), (frame.queries,), np.int64)[query]
    visit = carray(pointer(frame.visit), (frame.queries,), np.int64)[query]
    passing = carray(pointer(frame.passing), (frame.queries,), np.int64)[query]
    sizes = carray(pointer(frame.sizes), (clusters,), np.int64)
    for cluster in range(clusters):
        rank = flip(bits[cluster])
        ranks[cluster] = rank + (rank == -1)  # -0.0 and 0.0 are equal scores.
    if least >= clusters or visit >= sizes.sum():
        for cluster in range(clusters):
            probes[cluster] = cluster
        counts[query] = clusters
    elif visit <= 0 and passing <= 0:
        counts[query] = _best(
            frame.ranks + 4 * width * query, clusters, max(1, least), frame.probes + 8 * clusters * query
        )
    else:
        counts[query] = _walk(frame, query, ranks, probes, sizes, least, visit, passing)


@kernel
def _best(ranks, clusters, least, probes):
    """Write the `least` best clusters, of equals those with the lowest numbers; `ranks` and `probes` are addresses."""
    limit = _limit(ranks, clusters, least, probes)
    chosen = carray(pointer(probes), (clusters,), np.int64)
    count = 0
    for equal in range(2):
        for first in range(0, clusters, LANES):
            lanes = lanes_reaching(ranks + 4 * first, np.int32(limit + 1))
            if equal:
                lanes = lanes_reaching(ranks + 4 * first, limit) & ~lanes
            lanes &= (1 << min(LANES, clusters - first)) - 1
            while lanes and count < least:
                chosen[count] = first + first_bit(lanes)
                lanes &= lanes - 1
                count += 1
    return count


@kernel
def _limit(ranks, clusters, least, spare):
    """The rank of the `least`-th best cluster; `spare` is the address of 8 bytes for each to work in."""
    values = carray(pointer(ranks), (clusters,), np.int32)
    blocks = clusters // LANES
    if least > blocks:
        return kth_rank(values, clusters, least)
    # So many blocks have a best one that reaches this, so the rank is no lower, and few others reach it.
    best = carray(pointer(spare), (blocks,), np.int32)
    for block in range(blocks):
        best[block] = values[block * LANES : (block + 1) * LANES].max()
    floor = kth_rank(best, blocks, least)
    count = 0
    for first in range(0, clusters, LANES):
        lanes = lanes_reaching(ranks + 4 * first, floor) & ((1 << min(LANES, clusters - first)) - 1)
        append_lanes(ranks + 4 * first, lanes, spare + 4 * count)
        count += count_bits(lanes)
    return kth_rank(carray(pointer(spare), (count,), np.int32), count, least)


@kernel
def _walk(frame, query, ranks, probes, sizes, least, visit, passing):
    """Take the best cluster that is left until they are enough."""
    clusters = frame.clusters
    blocks = -(-clusters // LANES)
    ranks[clusters : blocks * LANES] = LOWEST
    best = ranks[blocks * LANES :]
    best[:] = LOWEST
    for block in range(blocks):
        best[block] = ranks[block * LANES : (block + 1) * LANES].max()
    count, visited, seen = 0, np.int64(0), np.int64(0)
    while count < clusters and (count < least or visited < visit or seen < passing):
        rank = best.max()
        block = 0
        while best[block] != rank:
            block += 1
        cluster = block * LANES
        while ranks[cluster] != rank:
            cluster += 1
        ranks[cluster] = LOWEST
        best[block] = ranks[block * LANES : (block + 1) * LANES].max()
        probes[count] = cluster
        count += 1
        visited += sizes[cluster]
        if seen < passing:
            seen += _count_cluster(frame, query, cluster)
    return count


@kernel
def _count_cluster(frame, query, cluster):
    """Count the slots of a cluster that pass the query's filter."""
    offsets = carray(pointer(frame.offsets), (frame.clusters + 1,), np.int64)
    which = carray(pointer(frame.filters), (frame.queries,), np.int64)[query]
    program = frame.programs + 4 * frame.length * which
    stack = frame.scratch + 8 * SCRATCH * query
    words = carray(pointer(stack), (LEVEL,), np.int64)
    start, end = offsets[cluster], offsets[cluster + 1]
    total = np.int64(0)
    while start < end:
        first = (start >> 6) & ~(WORDS - 1)
        stop = min(end, 64 * (first + BLOCK))
        vectors = (((stop - 1) >> 6) - first) // WORDS + 1
        run_program(frame.planes, 8 * frame.words, program, frame.length, first, vectors, stack, 8 * LEVEL)
        for word in range(start >> 6, ((stop - 1) >> 6) + 1):
            bits = words[word - first]
            if word == start >> 6:
                bits &= np.int64(-1) << (start & 63)
            if word == stop >> 6:
                bits &= (np.int64(1) << (stop & 63)) - 1
            total += count_bits(bits)
        start = stop
    return total
