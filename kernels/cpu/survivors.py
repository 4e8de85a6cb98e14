"""Scoring survivors on a CPU: they are listed once for each filter, and each worker scores a share of every list.

A worker goes through its share in strips of rows that stay in the second-level cache, query after query.
Letters: N slots, Q queries, U filters, T threads.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import carray, prange
from torch import Tensor

from silverray.kernels.cpu.jit import kernel, parallel_kernel
from silverray.kernels.cpu.launch import padded_floats, use_threads, workspace
from silverray.kernels.cpu.refine import ask_for, exact_dots
from silverray.kernels.cpu.scan import write_all
from silverray.kernels.cpu.scan_frame import BFLOATS, SCRATCH, Batch, Frame, Work, capacity_for, work_sizes
from silverray.kernels.cpu.scan_launch import MAX_BUFFER, vector_lists
from silverray.kernels.cpu.selection import LOWEST, keep_best
from silverray.kernels.cpu.simd import (
    append_lanes,
    count_bits,
    first_bit,
    load_int32,
    load_int64,
    pointer,
    rank_scores,
    store_int32,
    store_int64,
)
from silverray.kernels.rows import LANES, aligned_rows

STRIP = 64
"""Rows that are scored for one query after another: 32 KiB of 128 floats."""


def launch(
    vectors: Tensor, keys: Tensor, bits: Tensor, filters: Tensor, queries: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Run the kernels, as many queries at a time as the buffers may hold."""
    wide, threads = padded_floats(queries), use_threads()
    keys, bits, filters = keys.contiguous(), bits.contiguous(), filters.contiguous()
    rows = aligned_rows(vectors)
    lists = vector_lists(rows, keys)
    starts = torch.empty(len(bits) + 1, dtype=torch.int64)
    number = count_rows(bits.data_ptr(), len(bits), bits.shape[1], len(rows), starts.data_ptr())
    marked = torch.empty(number + LANES, dtype=torch.int32)
    list_rows(bits.data_ptr(), len(bits), bits.shape[1], number, starts.data_ptr(), marked.data_ptr())
    count, step = len(queries), max(1, min(len(queries), MAX_BUFFER // capacity_for(k)))
    *parts, spare = workspace(*work_sizes(threads, step, 1, k), 16 * step * k)
    work = Work(threads, capacity_for(k), *parts)
    scores, places = torch.empty(count, k), torch.empty(count, k, dtype=torch.int64)
    for start in range(0, count, step):
        batch = Batch(
            0, len(bits), 0, filters.data_ptr() + 8 * start, min(step, count - start),
            wide.data_ptr() + 4 * wide.shape[1] * start, 4 * wide.shape[1], 0, 0, 0, 0, 0, k,
        )  # fmt: skip
        at = start * k
        score_listed(
            lists, batch, work, marked.data_ptr(), starts.data_ptr(), scores.data_ptr() + 4 * at,
            places.data_ptr() + 8 * at, spare,
        )  # fmt: skip
    return scores, places


@kernel
def count_rows(bits, rows, words, slots, starts):
    """Write where the slots of each row begin in a list of them all, `[U + 1]`; returns how many there are."""
    _count_each(bits, rows, words, slots, starts)
    places = carray(pointer(starts), (rows + 1,), np.int64)
    number = np.int64(0)
    for row in range(rows):
        places[row], number = number, number + places[row]
    places[rows] = number
    return number


@parallel_kernel
def _count_each(bits, rows, words, slots, counts):
    for row in prange(rows):
        mine = carray(pointer(bits + 8 * words * row), (words,), np.int64)
        whole, total = slots >> 6, np.int64(0)
        for word in range(whole):
            total += count_bits(mine[word])
        if slots & 63:
            total += count_bits(mine[whole] & ((np.int64(1) << (slots & 63)) - 1))
        store_int64(counts + 8 * row, total)


@kernel
def list_rows(bits, rows, words, number, starts, marked):
    """Write the slots of each row from its start on, and 16 zeros at the end: rows are scored 16 at a time."""
    _list_each(bits, rows, words, starts, marked)
    carray(pointer(marked), (number + LANES,), np.int32)[number:] = 0


@parallel_kernel
def _list_each(bits, rows, words, starts, marked):
    for row in prange(rows):
        at = marked + 4 * load_int64(starts + 8 * row)
        end = marked + 4 * load_int64(starts + 8 * (row + 1))
        for word in range(words):
            left = load_int64(bits + 8 * (row * words + word))
            while left and at < end:  # bits past the last slot come last, and are not counted
                store_int32(at, np.int32(64 * word + first_bit(left)))
                left &= left - 1
                at += 4


@kernel
def score_listed(lists, batch, work, marked, starts, scores, places, spare):
    """Score the slots that `list_rows` has listed at `marked` for each query and write the best, `batch.keep` each."""
    _score_on_all(lists, batch, work, marked, starts, _group_queries(batch, work))
    write_all(lists, batch, work, scores, places, spare)


@kernel
def _group_queries(batch, work):
    """Sort the queries by filter into `work.pairs`; returns `[U + 1]` where those of each filter begin."""
    filters = carray(pointer(batch.filters), (batch.size,), np.int64)
    order = carray(pointer(work.pairs), (batch.size,), np.int64)
    bounds = np.zeros(batch.program_count + 1, np.int64)
    for query in range(batch.size):
        bounds[filters[query] + 1] += 1
    bounds = bounds.cumsum()
    places = bounds.copy()
    for query in range(batch.size):
        order[places[filters[query]]] = query
        places[filters[query]] += 1
    return bounds


@parallel_kernel
def _score_on_all(lists, batch, work, marked, starts, bounds):
    for thread in prange(work.threads):
        _score_share(Frame(lists, batch, work), thread, marked, starts, bounds)


@kernel
def _score_share(frame, thread, marked, starts, bounds):
    """Score a worker's share of each filter's slots."""
    lists, work, size = frame.lists, frame.work, frame.batch.size
    for query in range(thread * size, (thread + 1) * size):
        store_int64(work.counts + 8 * query, 0)
        store_int32(work.thresholds + 4 * query, np.int32(LOWEST + 1))
    for row in range(frame.batch.program_count):
        first = load_int64(starts + 8 * row)
        number = load_int64(starts + 8 * (row + 1)) - first
        low, high = first + number * thread // work.threads, first + number * (thread + 1) // work.threads
        if bounds[row] < bounds[row + 1]:
            ask_for(lists.rows, lists.stride, marked, low, min(high, low + STRIP))
            for start in range(low, high, STRIP):
                end = min(high, start + STRIP)
                ask_for(lists.rows, lists.stride, marked, end, min(high, end + STRIP))
                for place in range(bounds[row], bounds[row + 1]):
                    _score_strip(frame, thread, load_int64(work.pairs + 8 * place), marked, start, end)


@kernel
def _score_strip(frame, thread, query, marked, start, end):
    """Score some slots for a query, and put those that may be among its best into its buffer."""
    lists, batch, work = frame.lists, frame.batch, frame.work
    mine = thread * batch.size + query
    ranks, slots = work.ranks + 4 * work.capacity * mine, work.slots + 4 * work.capacity * mine
    count, threshold = load_int64(work.counts + 8 * mine), load_int32(work.thresholds + 4 * mine)
    sums, half = work.scratch + 8 * SCRATCH * thread, np.int64(lists.kind == BFLOATS)
    for first in range(start, end, LANES):
        at = marked + 4 * first
        exact_dots(half, lists.rows, lists.stride, at, batch.queries + query * batch.stride, lists.chunks, sums)
        lanes = rank_scores(sums, threshold) & ((1 << min(LANES, end - first)) - 1)
        if lanes:
            if count > work.capacity - LANES:
                count, threshold = keep_best(ranks, slots, count, batch.keep, lists.keys)
            append_lanes(sums, lanes, ranks + 4 * count)
            append_lanes(at, lanes, slots + 4 * count)
            count += count_bits(lanes)
    store_int64(work.counts + 8 * mine, count)
    store_int32(work.thresholds + 4 * mine, threshold)
