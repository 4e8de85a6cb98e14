"""Sets of codes, given as closed intervals, as boolean functions of the codes' bits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

from silverray.shard.filter.circuit import Circuit, Node

Interval = tuple[int, int]

NESTED_INTERVALS = 4
"""Intervals whose bits are factored into one nested function; more would take more stack."""


def merge(intervals: Iterable[Interval]) -> list[Interval]:
    """Join intervals that overlap or touch; the result is ascending."""
    merged: list[Interval] = []
    for low, high in sorted(intervals):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], high)
        else:
            merged.append((low, high))
    return merged


def merge_nearest(intervals: Sequence[Interval], count: int) -> list[Interval]:
    """Cover ascending, disjoint intervals by `count` or fewer, closing the narrowest gaps."""
    gaps = [right[0] - left[1] for left, right in pairwise(intervals)]
    widest = set(sorted(range(len(gaps)), key=lambda place: -gaps[place])[: count - 1])
    covers = [intervals[0]]
    for place, interval in enumerate(intervals[1:]):
        if place in widest:
            covers.append(interval)
        else:
            covers[-1] = covers[-1][0], interval[1]
    return covers


def coarsen(intervals: Iterable[Interval], bits: int, top: int) -> list[Interval]:
    """Widen intervals to multiples of 2^bits, at most to `top`."""
    return merge((low >> bits << bits, min((high >> bits << bits) + (1 << bits) - 1, top)) for low, high in intervals)


def intervals_node(circuit: Circuit, bits: Sequence[Node], intervals: Sequence[Interval]) -> Node:
    """Make the function that is true where the code is in any interval.

    Args:
        circuit: makes the nodes.
        bits: the code's bits, least significant first.
        intervals: ascending, disjoint intervals of codes below 2^len(bits) that do not touch.

    Returns:
        The function: for one interval at most 2 instructions a bit and 2 more, for a single code 1 a bit.
    """
    return circuit.any(_disjuncts(circuit, bits, intervals))


def least_size(width: int, intervals: Sequence[Interval], limit: int) -> int:
    """Count the instructions that `intervals_node` takes at the least.

    Args:
        width: number of bits.
        intervals: as there.
        limit: where counting ends; once more than that are found, some number above it is the answer.

    Cost:
        No more than some steps an instruction: nothing that is longer than `limit` need be made to know that.
    """
    size, disjuncts = _least_disjuncts(width, intervals, limit)
    return size + max(disjuncts - 2, 0)  # one of them may be a plane, which takes no instruction to join


def _least_disjuncts(width: int, intervals: Sequence[Interval], limit: int) -> tuple[int, int]:
    if len(intervals) <= NESTED_INTERVALS:
        return _least_nested(width, intervals), bool(intervals)
    lower = (intervals[0][0] ^ intervals[-1][1]).bit_length() - 1  # bits above are the same in all
    left, right = _halves(lower, _within(lower + 1, intervals))
    size, count = _least_disjuncts(lower, left, limit)
    if left != right:
        within = size + count <= limit
        more, others = _least_disjuncts(lower, right, limit - size - count) if within else (0, 0)
        size, count = size + count + more + others, count + others
    return size + count * (width - lower - 1), count


def _least_nested(width: int, intervals: Sequence[Interval]) -> int:
    if not intervals or intervals[0] == (0, (1 << width) - 1):
        return 0
    first, last = intervals[0][0], intervals[-1][1]
    if first == last:
        return width
    lower = (first ^ last).bit_length() - 1
    same = width - lower - 1
    if len(intervals) == 1:
        # A bit each, but those at the end for which any value does.
        left_bits = lower - _trailing_zeros(first | 1 << lower)
        right_bits = lower - _trailing_zeros(last + 1 | 1 << lower)
        ends = left_bits > 0 and right_bits > 0
        return same + left_bits + right_bits + (3 if ends else left_bits + right_bits > 0)
    left, right = _halves(lower, _within(lower + 1, intervals))
    if left == right:
        return same + _least_nested(lower, left)
    everything = [(0, (1 << lower) - 1)]
    if left == everything or right == everything:
        return same + 1 + _least_nested(lower, right if left == everything else left)
    return same + 3 + _least_nested(lower, left) + _least_nested(lower, right)


def _trailing_zeros(number: int) -> int:
    return (number & -number).bit_length() - 1


def _within(width: int, intervals: Sequence[Interval]) -> Sequence[Interval]:
    """Intervals without the bits above `width`, which are the same in all."""
    base = intervals[0][0] >> width << width
    return [(low - base, high - base) for low, high in intervals] if base else intervals


def _disjuncts(circuit: Circuit, bits: Sequence[Node], intervals: Sequence[Interval]) -> list[Node]:
    if len(intervals) <= NESTED_INTERVALS:
        return [_nested(circuit, bits, intervals)]
    *lower, bit = bits
    left, right = _halves(len(lower), intervals)
    zeros, ones = _disjuncts(circuit, lower, left), _disjuncts(circuit, lower, right)
    if zeros == ones:
        return zeros
    unset = circuit.negate(bit)
    return [circuit.all([unset, node]) for node in zeros] + [circuit.all([bit, node]) for node in ones]


def _nested(circuit: Circuit, bits: Sequence[Node], intervals: Sequence[Interval]) -> Node:
    if not intervals:
        return circuit.false
    low, high = intervals[0]
    if (low, high) == (0, (1 << len(bits)) - 1):
        return circuit.true
    if len(intervals) == 1 and low == high:
        return circuit.all(_literals(circuit, bits, low))
    same = len(bits) - (low ^ intervals[-1][1]).bit_length()
    if same:
        rest = len(bits) - same
        node = _nested(circuit, bits[:rest], _within(rest, intervals))
        return _guarded(circuit, _literals(circuit, bits[rest:], low >> rest), node)
    *lower, bit = bits
    left, right = _halves(len(lower), intervals)
    zero, one = _nested(circuit, lower, left), _nested(circuit, lower, right)
    if zero is one:
        return zero
    # Where one side is true the other needs no guard: (not b) or (b and x) is (not b) or x.
    guarded_zero = zero if one is circuit.true else circuit.all([circuit.negate(bit), zero])
    guarded_one = one if zero is circuit.true else circuit.all([bit, one])
    if zero is circuit.true:
        guarded_zero = circuit.negate(bit)
    if one is circuit.true:
        guarded_one = bit
    return circuit.any([guarded_zero, guarded_one])


def _guarded(circuit: Circuit, literals: list[Node], node: Node) -> Node:
    """`node` and all literals, joined one by one from the first to the last."""
    if node.kind != "not" or node.flat:
        return circuit.all([*reversed(literals), node])  # the same function at once
    for literal in literals:
        node = circuit.all([literal, node])
    return node


def _literals(circuit: Circuit, bits: Sequence[Node], code: int) -> list[Node]:
    """What is true of the bits of a code."""
    return [bit if code >> place & 1 else circuit.negate(bit) for place, bit in enumerate(bits)]


def _halves(width: int, intervals: Sequence[Interval]) -> tuple[list[Interval], list[Interval]]:
    """Split intervals at 2^width; those of the upper half are counted from there."""
    half = 1 << width
    left = [(low, min(high, half - 1)) for low, high in intervals if low < half]
    right = [(max(low - half, 0), high - half) for low, high in intervals if high >= half]
    return left, right
