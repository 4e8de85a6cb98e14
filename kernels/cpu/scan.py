"""The scan for CPUs: lists are read once per batch, in tiles that stay in the second-level cache.

A worker takes a run of tiles. In a tile it goes from query to query; for each it evaluates the query's program on the
words of the probed lists, collects the slots that pass, scores them 16 at a time and keeps the best in a buffer with
a threshold that rises whenever the buffer is cut. At the end the workers' buffers of each query are merged.
Letters: N slots, C clusters, Q queries, P probes, T threads.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import carray, prange

from silverray.kernels.cpu.jit import inlined, kernel, parallel_kernel
from silverray.kernels.cpu.programs import run_program
from silverray.kernels.cpu.refine import exact_dots, write_best
from silverray.kernels.cpu.scan_frame import BFLOATS, BLOCK, CODES, LEVEL, PENDING, SCRATCH, Frame
from silverray.kernels.cpu.selection import LOWEST, keep_best
from silverray.kernels.cpu.simd import (
    append_lanes,
    coarse_scores,
    code_bias,
    count_bits,
    dot_rows,
    dot_run,
    first_bit,
    lanes_reaching,
    load_float,
    load_int32,
    load_int64,
    pointer,
    prefetch,
    rank_scores,
    store_float,
    store_int32,
    store_int64,
)
from silverray.kernels.programs import MAX_STACK
from silverray.kernels.rows import LANES, LINE, WORDS

TILE = 4_096
"""Slots of a tile: half a megabyte of codes of 128 dimensions."""
DENSE = 40
"""From so many set bits of 64 on, whole groups of 16 slots are scored and the others thrown away."""
_BIAS = code_bias()


@kernel
def _group_pairs(frame, width):
    """Sort the first `width` probes of each query by tile, clear the buffers and share out the work.

    Returns:
        `[T + 1]` int64: where in the sorted probes each worker begins.
    """
    count, columns = frame.batch.size, frame.batch.columns
    probes = carray(pointer(frame.batch.probes), (count * columns,), np.int64)
    offsets = carray(pointer(frame.lists.offsets), (frame.lists.clusters + 1,), np.int64)
    pairs = carray(pointer(frame.work.pairs), (count * columns,), np.int64)
    tiles = frame.lists.slots // TILE + 1
    carray(pointer(frame.work.counts), (frame.work.threads * count,), np.int64)[:] = 0
    carray(pointer(frame.work.thresholds), (frame.work.threads * count,), np.int32)[:] = LOWEST + 1
    starts = np.zeros(tiles + 1, np.int64)
    work = np.int64(0)
    for query in range(count):
        for cluster in probes[query * columns : query * columns + width]:
            if cluster >= 0:
                starts[offsets[cluster] // TILE + 1] += 1
                work += offsets[cluster + 1] - offsets[cluster]
    for tile in range(tiles):
        starts[tile + 1] += starts[tile]
    for query in range(count):
        for place in range(query * columns, query * columns + width):
            cluster = probes[place]
            if cluster >= 0:
                tile = offsets[cluster] // TILE
                pairs[starts[tile]] = place
                starts[tile] += 1
    return _share_out(frame, probes, pairs, offsets, starts[tiles - 1], work)


@kernel
def _share_out(frame, probes, pairs, offsets, number, work):
    """Cut `number` pairs, `work` slots in all, into a run for each worker."""
    threads = frame.work.threads
    bounds = np.zeros(threads + 1, np.int64)
    seen, worker = np.int64(0), 1
    for at in range(number):
        while worker < threads and seen * threads >= work * worker:
            bounds[worker] = at
            worker += 1
        cluster = probes[pairs[at]]
        seen += offsets[cluster + 1] - offsets[cluster]
    bounds[worker:] = number
    return bounds


class _Desk(NamedTuple):
    """Addresses in a worker's scratch.

    Attributes:
        words: a list's words on which a program was evaluated: the bottom of its stack.
        slots: `PENDING` slots (int32) that wait to be scored.
        bases: their `q·centroid` (float32).
        scales: their scales (float32).
        group: 16 slots of one cluster.
        group_bases: their `q·centroid`, 16 times the same.
        sums: 16 dot products, scores or ranks.
        taken: number of candidates in the buffer (int64).
        threshold: rank that another one must reach (int64).
        waiting: number of slots that wait (int64).
    """

    words: int
    slots: int
    bases: int
    scales: int
    group: int
    group_bases: int
    sums: int
    taken: int
    threshold: int
    waiting: int


@inlined
def _desk(frame, thread):
    words = frame.work.scratch + thread * 8 * SCRATCH
    slots = words + 8 * MAX_STACK * LEVEL
    bases, scales, group = slots + 4 * PENDING, slots + 8 * PENDING, slots + 12 * PENDING
    state = group + 3 * LINE
    return _Desk(words, slots, bases, scales, group, group + LINE, group + 2 * LINE, state, state + 8, state + 16)


class _Query(NamedTuple):
    """A query in one worker: addresses of its vector, its program and its buffer, and how its codes are scaled."""

    vector: int
    program: int
    ranks: int
    slots: int
    scale: np.float32
    bias: np.int32


@inlined
def _query(frame, thread, number):
    batch, work = frame.batch, frame.work
    scale, bias = np.float32(0), np.int32(0)
    if frame.lists.kind == CODES:
        scale, bias = load_float(batch.scales + 4 * number), np.int32(_BIAS * load_int64(batch.sums + 8 * number))
    program = batch.programs + 4 * batch.length * load_int64(batch.filters + 8 * number)
    at = 4 * work.capacity * (thread * batch.size + number)
    return _Query(batch.queries + number * batch.stride, program, work.ranks + at, work.slots + at, scale, bias)


@inlined
def _rank(frame, query, desk, slots, scales, bases, lanes):
    """Score 16 slots and put those whose lane is set and whose rank reaches the threshold into the buffer.

    `slots` (int32), `scales` and `bases` (float32) are addresses of 16 values.
    """
    lists = frame.lists
    if lists.kind == CODES:
        dot_rows(lists.rows, lists.stride, slots, query.vector, lists.chunks, desk.sums)
        coarse_scores(desk.sums, query.bias, scales, bases, query.scale)
    else:
        half = np.int64(lists.kind == BFLOATS)
        exact_dots(half, lists.rows, lists.stride, slots, query.vector, lists.chunks, desk.sums)
    lanes &= rank_scores(desk.sums, np.int32(load_int64(desk.threshold)))
    if lanes:
        _append(frame, query, desk, slots, lanes)


@inlined
def _append(frame, query, desk, slots, lanes):
    """Put those of 16 candidates whose lane is set into the buffer; their ranks are at `desk.sums`."""
    count = load_int64(desk.taken)
    if count > frame.work.capacity - LANES:
        count, threshold = keep_best(query.ranks, query.slots, count, frame.batch.keep, frame.lists.keys)
        store_int64(desk.threshold, threshold)
    append_lanes(desk.sums, lanes, query.ranks + 4 * count)
    append_lanes(slots, lanes, query.slots + 4 * count)
    store_int64(desk.taken, count + count_bits(lanes))


@inlined
def _rank_waiting(frame, query, desk, everything):
    """Rank the slots that wait in groups of 16; fewer than 16 go on waiting unless `everything` is set."""
    count, done = load_int64(desk.waiting), 0
    while count - done >= LANES:
        _rank(frame, query, desk, desk.slots + 4 * done, desk.scales + 4 * done, desk.bases + 4 * done, 0xFFFF)
        done += LANES
    rest = count - done
    for place in range(rest):
        store_int32(desk.slots + 4 * place, load_int32(desk.slots + 4 * (done + place)))
        store_float(desk.bases + 4 * place, load_float(desk.bases + 4 * (done + place)))
        store_float(desk.scales + 4 * place, load_float(desk.scales + 4 * (done + place)))
    if everything and rest:
        for place in range(rest, LANES):
            store_int32(desk.slots + 4 * place, load_int32(desk.slots))
        _rank(frame, query, desk, desk.slots, desk.scales, desk.bases, (1 << rest) - 1)
        rest = 0
    store_int64(desk.waiting, rest)


@inlined
def _wait(lists, desk, start, bits, base):
    """Let the slots whose bits are set, counted from `start`, wait; ask for their rows from memory."""
    at = 4 * load_int64(desk.waiting)
    while bits:
        slot = start + first_bit(bits)
        bits &= bits - 1
        store_int32(desk.slots + at, np.int32(slot))
        if lists.kind == CODES:
            store_float(desk.bases + at, base)
            store_float(desk.scales + at, load_float(lists.scales + 4 * slot))
        at += 4
        prefetch(lists.rows + slot * lists.stride)
        prefetch(lists.rows + slot * lists.stride + LINE)
    store_int64(desk.waiting, at // 4)


@inlined
def _rank_dense(frame, query, desk, start, bits):
    """Rank the slots whose bits are set in whole groups of codes; returns the bits of one that the rows do not fill."""
    lists, threshold = frame.lists, np.int32(load_int64(desk.threshold))
    for first in range(0, 64, LANES):
        lanes, group = (bits >> first) & 0xFFFF, start + first
        if lanes and group + LANES <= lists.slots:
            dot_run(lists.rows + group * lists.stride, query.vector, lists.chunks, desk.sums)
            coarse_scores(desk.sums, query.bias, lists.scales + 4 * group, desk.group_bases, query.scale)
            lanes &= rank_scores(desk.sums, threshold)
            if lanes:
                for lane in range(LANES):
                    store_int32(desk.group + 4 * lane, np.int32(group + lane))
                _append(frame, query, desk, desk.group, lanes)
                threshold = np.int32(load_int64(desk.threshold))
            bits &= ~(np.int64(0xFFFF) << first)
    return bits


@inlined
def _scan_words(frame, query, desk, base, start, stop, word):
    """Rank the slots `start` to `stop` that pass; `desk.words` begins with word number `word`."""
    dense = frame.lists.kind == CODES and frame.lists.packed
    for first in range(start, stop, 64):
        place, shift = desk.words + 8 * ((first >> 6) - word), first & 63
        bits = np.int64(np.uint64(load_int64(place)) >> np.uint64(shift))
        if shift:
            bits |= load_int64(place + 8) << (64 - shift)
        if stop - first < 64:
            bits &= (np.int64(1) << (stop - first)) - 1
        if dense and count_bits(bits) >= DENSE:
            bits = _rank_dense(frame, query, desk, first, bits)
        if bits:
            _wait(frame.lists, desk, first, bits, base)
            if load_int64(desk.waiting) > PENDING - 64:
                _rank_waiting(frame, query, desk, False)


@inlined
def _scan_list(frame, query, desk, cluster, base):
    """Rank the slots of a cluster that pass, `BLOCK` words at a time."""
    lists = frame.lists
    start, end = load_int64(lists.offsets + 8 * cluster), load_int64(lists.offsets + 8 * cluster + 8)
    for lane in range(LANES):
        store_float(desk.group_bases + 4 * lane, base)
    while start < end:
        stop = min(end, start + 64 * (BLOCK - WORDS))
        word = (start >> 6) & ~(WORDS - 1)
        vectors = (((stop - 1) >> 6) - word) // WORDS + 1
        run_program(
            lists.planes, 8 * lists.words, query.program, frame.batch.length, word, vectors, desk.words, 8 * LEVEL
        )
        _scan_words(frame, query, desk, base, start, stop, word)
        start = stop


@kernel
def _work(frame, thread, first, last):
    """Scan the pairs `first` to `last`, query after query in each tile."""
    batch, lists, work = frame.batch, frame.lists, frame.work
    desk = _desk(frame, thread)
    at = first
    while at < last:
        number = load_int64(work.pairs + 8 * at) // batch.columns
        tile = _tile_of(frame, at)
        query = _query(frame, thread, number)
        mine = thread * batch.size + number
        store_int64(desk.taken, load_int64(work.counts + 8 * mine))
        store_int64(desk.threshold, np.int64(load_int32(work.thresholds + 4 * mine)))
        store_int64(desk.waiting, 0)
        while at < last and load_int64(work.pairs + 8 * at) // batch.columns == number and _tile_of(frame, at) == tile:
            cluster = load_int64(batch.probes + 8 * load_int64(work.pairs + 8 * at))
            base = np.float32(0)
            if lists.kind == CODES:
                base = load_float(batch.bases + 4 * (number * lists.clusters + cluster))
            _scan_list(frame, query, desk, cluster, base)
            at += 1
        _rank_waiting(frame, query, desk, True)
        store_int64(work.counts + 8 * mine, load_int64(desk.taken))
        store_int32(work.thresholds + 4 * mine, np.int32(load_int64(desk.threshold)))


@inlined
def _tile_of(frame, pair):
    """The tile of a pair's cluster."""
    cluster = load_int64(frame.batch.probes + 8 * load_int64(frame.work.pairs + 8 * pair))
    return load_int64(frame.lists.offsets + 8 * cluster) // TILE


@kernel
def merge(frame, query):
    """Merge the workers' buffers of a query into the first one's; returns how many are left."""
    work, keep, keys = frame.work, frame.batch.keep, frame.lists.keys
    row = 4 * work.capacity
    ranks, slots = work.ranks + row * query, work.slots + row * query
    count, threshold = load_int64(work.counts + 8 * query), np.int32(LOWEST + 1)
    for thread in range(1, work.threads):
        other = thread * frame.batch.size + query
        more = load_int64(work.counts + 8 * other)
        for first in range(0, more, LANES):
            if count > work.capacity - LANES:
                count, threshold = keep_best(ranks, slots, count, keep, keys)
            at = row * other + 4 * first
            lanes = lanes_reaching(work.ranks + at, threshold) & ((1 << min(LANES, more - first)) - 1)
            append_lanes(work.ranks + at, lanes, ranks + 4 * count)
            append_lanes(work.slots + at, lanes, slots + 4 * count)
            count += count_bits(lanes)
    count, threshold = keep_best(ranks, slots, count, keep, keys)
    return count


@kernel
def _write(frame, query, scores, places, spare):
    keep, count = frame.batch.keep, merge(frame, query)
    row, at = 4 * frame.work.capacity * query, query * keep
    write_best(
        frame.work.ranks + row, frame.work.slots + row, count, keep, frame.lists.keys,
        spare + 16 * at if spare else 0, scores + 4 * at, places + 8 * at,
    )  # fmt: skip


# Each loop over workers is a function of its own: Numba may join loops that share no array, and these share addresses.
# The parts of a frame are passed one by one, since Numba cannot take a nested tuple into a loop.


@parallel_kernel
def _work_on_all(lists, batch, work, bounds):
    for thread in prange(work.threads):
        _work(Frame(lists, batch, work), thread, bounds[thread], bounds[thread + 1])


@parallel_kernel
def write_all(lists, batch, work, scores, places, spare):
    """Merge the workers' buffers and write the result; see `scan_lists`."""
    for query in prange(batch.size):
        _write(Frame(lists, batch, work), query, scores, places, spare)


@kernel
def fill_buffers(frame, width):
    """Scan the first `width` probes of each query into the buffers."""
    _work_on_all(frame.lists, frame.batch, frame.work, _group_pairs(frame, width))


@kernel
def scan_lists(frame, width, scores, places, spare):
    """Scan and fill `scores` and `places`, addresses of `[Q, keep]` float32 and int64.

    `spare` is the address of 16 bytes for each of `[Q, keep]` to sort in, or 0 to leave the result unsorted.
    """
    fill_buffers(frame, width)
    write_all(frame.lists, frame.batch, frame.work, scores, places, spare)
