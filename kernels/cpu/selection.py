"""Selecting the best candidates inside Numba kernels, without allocating.

Scores are compared as ranks: int32 numbers in the order of their float32 scores. Equal scores are ordered by key.
Letters: N candidates.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from silverray.kernels.cpu.jit import inlined, kernel
from silverray.kernels.cpu.simd import append_lanes, count_bits, lanes_reaching, load_int64, pointer
from silverray.kernels.rows import LANES

LOWEST = -2139095041
"""The rank of -inf, which is the score of no candidate."""
RUN = 128
"""Words that are sorted by counting."""


@inlined
def flip(bits):
    """Turn the bits of a float32 into its rank, or a rank into the bits."""
    return bits ^ ((bits >> np.int32(31)) & np.int32(0x7FFFFFFF))


@kernel
def kth_rank(ranks, count, k):
    """The k-th largest of `ranks[:count]`, 1 <= k <= count, by bisection: every step is one pass of comparisons."""
    low, high = np.int64(ranks[0]), np.int64(ranks[0])
    for place in range(count):
        low, high = min(low, np.int64(ranks[place])), max(high, np.int64(ranks[place]))
    high += 1
    while high - low > 1:
        middle = np.int32((low + high) >> 1)
        at_least = np.int32(0)
        for place in range(count):
            at_least += np.int32(ranks[place] >= middle)
        if at_least >= k:
            low = np.int64(middle)
            if at_least == k:
                break
        else:
            high = np.int64(middle)
    return np.int32(low)


@kernel
def keep_best(ranks, slots, count, keep, keys):
    """Move the `keep` best of `count` candidates to the front, in no order; all but the numbers are addresses.

    `ranks` and `slots` are int32, with room for a multiple of 16 candidates; `keys` are int64, one for each slot.

    Returns:
        How many there are, and the rank that another candidate must reach to be among them.
    """
    if count < keep or keep == 0:
        return count if keep else 0, np.int32(LOWEST + 1)
    least = kth_rank(carray(pointer(ranks), (count,), np.int32), count, keep)
    kept = 0
    for first in range(0, count, LANES):
        lanes = lanes_reaching(ranks + 4 * first, least) & ((1 << min(LANES, count - first)) - 1)
        append_lanes(slots + 4 * first, lanes, slots + 4 * kept)
        append_lanes(ranks + 4 * first, lanes, ranks + 4 * kept)
        kept += count_bits(lanes)
    if kept > keep:
        _drop_equals(ranks, slots, kept, keep, least, keys)
    return keep, least


@kernel
def _drop_equals(ranks, slots, count, keep, least, keys):
    """Of `count` candidates, all of rank `least` or better, move those of `least` with the largest keys to the end."""
    all_ranks = carray(pointer(ranks), (count,), np.int32)
    all_slots = carray(pointer(slots), (count,), np.int32)
    above = 0
    for place in range(count):
        rank, slot = all_ranks[place], all_slots[place]
        all_ranks[place], all_slots[place] = all_ranks[above], all_slots[above]
        all_ranks[above], all_slots[above] = rank, slot
        above += rank > least
    _least_keys_first(all_slots, above, count, keep, keys)


@kernel
def _least_keys_first(slots, first, last, split, keys):
    """Quickselect `slots[first:last]`: those with the least keys come before place `split`."""
    while last - first > 1:
        pivot = _key(keys, slots[(first + last) // 2])
        low, high = first, last - 1
        while low <= high:
            while _key(keys, slots[low]) < pivot:
                low += 1
            while _key(keys, slots[high]) > pivot:
                high -= 1
            if low <= high:
                slots[low], slots[high] = slots[high], slots[low]
                low += 1
                high -= 1
        if split <= high:
            last = high + 1
        elif split >= low:
            first = low
        else:
            return


@inlined
def _key(keys, slot):
    return load_int64(keys + 8 * np.int64(slot))


@kernel
def sort_best(ranks, slots, count, keys, spare):
    """Sort candidates by (rank desc, key asc); arguments as in `keep_best`, `spare` the address of 16·count bytes."""
    all_ranks = carray(pointer(ranks), (count,), np.int32)
    all_slots = carray(pointer(slots), (count,), np.int32)
    order = carray(pointer(spare), (2, count), np.int64)
    for place in range(count):
        order[0, place] = (np.int64(~all_ranks[place]) << 32) | np.int64(np.uint32(all_slots[place]))
    words = order[_sort_words(order, count)]
    first = 0
    for place in range(count):
        all_ranks[place], all_slots[place] = ~np.int32(words[place] >> 32), np.int32(words[place] & 0xFFFFFFFF)
        if all_ranks[place] != all_ranks[first]:
            _sort_by_key(all_slots, first, place, keys)
            first = place
    _sort_by_key(all_slots, first, count, keys)


@kernel
def _sort_words(order, count):
    """Sort the distinct words `order[0, :count]`, with the other row to work in; returns the row of the result.

    Runs are sorted by counting, for each word, the smaller ones, which is vector work, and then merged.
    `ndarray.sort` would allocate.
    """
    for start in range(0, count, RUN):
        _sort_run(order[0, start : start + RUN], order[1, start : start + RUN])
    row, width = 1, RUN
    while width < count:
        for start in range(0, count, 2 * width):
            _merge_runs(order[row], order[1 - row], start, min(start + width, count), min(start + 2 * width, count))
        row, width = 1 - row, 2 * width
    return row


@kernel
def _sort_run(words, target):
    for place in range(len(words)):
        word, smaller = words[place], np.int64(0)
        for other in range(len(words)):
            smaller += np.int64(words[other] < word)
        target[smaller] = word


@kernel
def _merge_runs(source, target, start, middle, end):
    left, right = start, middle
    for place in range(start, end):
        if right == end or (left < middle and source[left] < source[right]):
            target[place] = source[left]
            left += 1
        else:
            target[place] = source[right]
            right += 1


@kernel
def _sort_by_key(slots, first, last, keys):
    """Shell sort of `slots[first:last]`: mostly one element, mostly in order."""
    gap = (last - first) // 2
    while gap > 0:
        for place in range(first + gap, last):
            slot, at = slots[place], place
            while at >= first + gap and _key(keys, slots[at - gap]) > _key(keys, slot):
                slots[at] = slots[at - gap]
                at -= gap
            slots[at] = slot
        gap //= 2
