"""Selecting the best candidates inside Numba kernels, without allocating.

Scores are compared as ranks: int32 numbers in the order of their float32 scores. Equal scores are ordered by key.
Letters: N candidates.
"""

from __future__ import annotations

import numpy as np

from silverray.kernels.jit import inlined, kernel

LOWEST = -2139095041
"""The rank of -inf, which is the score of no candidate."""


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
    """Move the `keep` best of `count` candidates to the front, in no order.

    Returns:
        How many there are, and the rank that another candidate must reach to be among them.
    """
    if count < keep or keep == 0:
        return count if keep else 0, np.int32(LOWEST + 1)
    least = kth_rank(ranks, count, keep)
    above = 0
    for place in range(count):
        rank, slot = ranks[place], slots[place]
        ranks[place], slots[place] = ranks[above], slots[above]
        ranks[above], slots[above] = rank, slot
        above += rank > least
    equal = above
    for place in range(above, count):
        rank, slot = ranks[place], slots[place]
        ranks[place], slots[place] = ranks[equal], slots[equal]
        ranks[equal], slots[equal] = rank, slot
        equal += rank == least
    if equal > keep:
        _least_keys_first(slots, above, equal, keep, keys)
    return keep, least


@kernel
def _least_keys_first(slots, first, last, split, keys):
    """Quickselect `slots[first:last]`: those with the least keys come before place `split`."""
    while last - first > 1:
        pivot = keys[slots[(first + last) // 2]]
        low, high = first, last - 1
        while low <= high:
            while keys[slots[low]] < pivot:
                low += 1
            while keys[slots[high]] > pivot:
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


@kernel
def sort_best(ranks, slots, count, keys, order):
    """Sort candidates by (rank desc, key asc); `order` is `[count]` int64 to work in."""
    for place in range(count):
        order[place] = (np.int64(~ranks[place]) << 32) | np.int64(np.uint32(slots[place]))
    _sort_words(order, count)
    first = 0
    for place in range(count):
        ranks[place], slots[place] = ~np.int32(order[place] >> 32), np.int32(order[place] & 0xFFFFFFFF)
        if ranks[place] != ranks[first]:
            _sort_by_key(slots, first, place, keys)
            first = place
    _sort_by_key(slots, first, count, keys)


@kernel
def _sort_words(words, count):
    """Shell sort of `words[:count]`: `ndarray.sort` would allocate."""
    gap = 1
    while gap < count // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for place in range(gap, count):
            word, at = words[place], place
            while at >= gap and words[at - gap] > word:
                words[at] = words[at - gap]
                at -= gap
            words[at] = word
        gap //= 3


@kernel
def _sort_by_key(slots, first, last, keys):
    """Shell sort of `slots[first:last]`: mostly one element, mostly in order."""
    gap = (last - first) // 2
    while gap > 0:
        for place in range(first + gap, last):
            slot, at = slots[place], place
            while at >= first + gap and keys[slots[at - gap]] > keys[slot]:
                slots[at] = slots[at - gap]
                at -= gap
            slots[at] = slot
        gap //= 2
