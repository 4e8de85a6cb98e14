"""Upper and lower bounds of a filter as boolean functions of planes.

`upper` is true wherever the expression is, `lower` nowhere else; where both are one node, planes decide alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silverray.shard.filter.circuit import Circuit, Node
from silverray.shard.filter.expression import And, Expression, Not, OneOf, Or, PlaneTest, Present, Range
from silverray.shard.filter.intervals import Interval, coarsen, intervals_node, merge, merge_nearest
from silverray.shard.filter.layout import FieldPlanes, PlaneLayout
from silverray.shard.filter.planes import (
    BooleanPlanes,
    ExactPlanes,
    HashedPlanes,
    SlicedPlanes,
    float_numbers,
)

NUMBER_MIN, NUMBER_MAX = -(2**63), 2**63 - 1
NESTED_BLOCKS = 3
"""Blocks of a hashed group whose planes are factored out of a list; more would take more stack."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """An expression's bounds.

    Attributes:
        upper: true wherever the expression is.
        lower: true nowhere else.
        groups: the planes of a hashed leaf, one group a value; None for all else.
        loosened: whether `upper` is true at more than the planes of `groups` say.
    """

    upper: Node
    lower: Node
    groups: tuple[tuple[int, ...], ...] | None = None
    loosened: bool = False


class Bounder:
    """Finds bounds of expressions.

    Args:
        layout: what the planes mean.
        circuit: makes the nodes.
        budget: instructions that one leaf may take; a longer one gets a looser upper bound and no lower one.
        wider: a bounder of a larger budget, whose leaves serve where they are short enough.
    """

    def __init__(self, layout: PlaneLayout, circuit: Circuit, budget: int, wider: Bounder | None = None) -> None:
        self._layout = layout
        self._circuit = circuit
        self._budget = budget
        self._leaves: dict[OneOf | Range, Bounds] = {}
        self._joins: dict[tuple[int, bool, bool], tuple[And | Or, Bounds]] = {}
        if wider is not None:
            self._leaves = {leaf: bounds for leaf, bounds in wider._leaves.items() if bounds.upper.size <= budget}

    def bounds(self, expression: Expression, trust: bool = False, positive: bool = True) -> Bounds:
        """Find the bounds of an expression.

        Args:
            expression: the expression; holds no `PlaneTest`.
            trust: whether to take a hashed leaf under an even number of negations at its planes' word.
            positive: whether `expression` stands under an even number of negations.

        Returns:
            Its bounds. `upper` does not depend on `trust` where `positive` is true.
        """
        circuit = self._circuit
        match expression:
            case Present(field):
                node = _has(circuit, self._layout.fields[field])
                return Bounds(node, node)
            case OneOf() | Range():
                leaf = self.leaf(expression)
                if trust and positive and leaf.groups is not None and not leaf.loosened:
                    return Bounds(leaf.upper, leaf.upper)
                return leaf
            case Not(operand):
                inner = self.bounds(operand, trust, not positive)
                return Bounds(circuit.negate(inner.lower), circuit.negate(inner.upper))
            case And() | Or():
                return self._join(expression, trust, positive)
            case PlaneTest():
                raise ValueError("expression: a PlaneTest is made by the compiler, it cannot be compiled")

    def _join(self, expression: And | Or, trust: bool, positive: bool) -> Bounds:
        """Bounds of a join, which is asked for again by the checks of what holds it."""
        key = id(expression), trust, positive  # hashing it would take as long as finding its bounds
        if key not in self._joins:
            parts = [self.bounds(operand, trust, positive) for operand in expression.operands]
            join = self._circuit.all if isinstance(expression, And) else self._circuit.any
            bounds = Bounds(join([part.upper for part in parts]), join([part.lower for part in parts]))
            self._joins[key] = expression, bounds  # with the expression, so that no other gets its number
        return self._joins[key][1]

    def leaf(self, leaf: OneOf | Range) -> Bounds:
        """Find the bounds of a leaf."""
        bounds = self._leaves.get(leaf)
        if bounds is None:
            bounds = self._leaves[leaf] = self._leaf_bounds(leaf)
        return bounds

    def _leaf_bounds(self, leaf: OneOf | Range) -> Bounds:
        circuit = self._circuit
        field = self._layout.fields[leaf.field]
        match field.planes:
            case SlicedPlanes():
                return self._sliced(leaf, field, field.planes)
            case BooleanPlanes(plane):
                yes = circuit.plane(plane)
                accepted = [value for value in (0, 1) if _accepts(leaf, value)]
                no = circuit.all([circuit.negate(yes), _has(circuit, field)])
                node = circuit.any([(no, yes)[value] for value in accepted])
                return Bounds(node, node)
            case ExactPlanes() | HashedPlanes():
                if isinstance(leaf, Range):
                    raise ValueError(f"{leaf.field}: a Range needs a field of numbers")
                return self._hashed(leaf, field)

    def _hashed(self, leaf: OneOf, field: FieldPlanes) -> Bounds:
        circuit, planes = self._circuit, field.planes
        known: list[int] = []
        unknown = [int(value) for value in leaf.values]
        group = planes
        if isinstance(planes, ExactPlanes):
            index = {value: planes.first + place for place, value in enumerate(planes.values)}
            known = [index[value] for value in unknown if value in index]
            unknown = [value for value in unknown if value not in index]
            group = planes.other
        exact = circuit.any([circuit.plane(plane) for plane in known])
        if not unknown and exact.size <= self._budget:
            return Bounds(exact, exact)
        assert isinstance(group, HashedPlanes)
        places = group.places(np.array(unknown, dtype=np.int64)).tolist()
        groups = (*((plane,) for plane in known), *map(tuple, places))
        prefixes = [len({tuple(place[:blocks]) for place in places}) for blocks in range(1, group.blocks + 1)]
        for blocks in range(group.blocks, 0, -1):
            if len(known) + sum(prefixes[:blocks]) > self._budget:
                continue  # groups that begin alike share no more than what they begin with
            hashed = _groups_node(circuit, [place[:blocks] for place in places])
            upper = circuit.any([exact, hashed])
            if upper.size <= self._budget:
                loosened = blocks < group.blocks
                return Bounds(upper, circuit.false if loosened else exact, groups, loosened)
        return Bounds(_has(circuit, field), circuit.false, groups, True)

    def _sliced(self, leaf: OneOf | Range, field: FieldPlanes, planes: SlicedPlanes) -> Bounds:
        circuit, budget = self._circuit, self._budget
        ranges = _number_ranges(leaf, planes.floating)
        outer, beyond = _code_ranges(planes, ranges, outer=True), _beyond(planes, ranges, outer=True)
        if _least_size(outer, planes.width) <= 2 * budget:
            upper = _sliced_node(circuit, field, planes, outer, beyond)
            if upper.size <= budget:
                inner, inner_beyond = _code_ranges(planes, ranges, outer=False), _beyond(planes, ranges, outer=False)
                if (inner, inner_beyond) == (outer, beyond):
                    return Bounds(upper, upper)
                return Bounds(upper, _sliced_node(circuit, field, planes, inner, inner_beyond))
        while len(outer) > 1:
            outer = merge_nearest(outer, len(outer) // 2)
            if _least_size(outer, planes.width) > 2 * budget:
                continue
            upper = _sliced_node(circuit, field, planes, outer, beyond)
            if upper.size <= budget:
                return Bounds(upper, circuit.false)
        coarse = coarsen(outer, max(planes.width - budget // 4, 0), planes.top)
        return Bounds(_sliced_node(circuit, field, planes, coarse, beyond), circuit.false)


def _least_size(codes: Sequence[Interval], width: int) -> int:
    """Instructions that scattered codes take at the least; regular ones, such as all even codes, may take fewer."""
    return len(codes) * (width - len(codes).bit_length())


def _has(circuit: Circuit, field: FieldPlanes) -> Node:
    return circuit.true if field.has is None else circuit.plane(field.has)


def _accepts(leaf: OneOf | Range, value: int) -> bool:
    if isinstance(leaf, OneOf):
        return value in leaf.values
    return (leaf.low is None or leaf.low <= value) and (leaf.high is None or value <= leaf.high)


def _number_ranges(leaf: OneOf | Range, floating: bool) -> list[Interval]:
    """The leaf's ranges of numbers, see `SlicedPlanes`; ascending."""
    if isinstance(leaf, OneOf):
        return [(number, number) for number in _numbers(leaf.values, floating)]
    least, most = _limits(floating)
    low = least if leaf.low is None else _numbers([leaf.low], floating)[0]
    high = most if leaf.high is None else _numbers([leaf.high], floating)[0]
    return [(low, high)] if low <= high else []


def _numbers(values: Sequence[float], floating: bool) -> list[int]:
    if not floating:
        return [int(value) for value in values]
    array: NDArray[np.float64] = np.array(values, dtype=np.float64)
    numbers: list[int] = float_numbers(array).tolist()
    return numbers


def _limits(floating: bool) -> Interval:
    if not floating:
        return NUMBER_MIN, NUMBER_MAX
    least, most = float_numbers(np.array([-np.inf, np.inf])).tolist()
    return least, most


def _code_ranges(planes: SlicedPlanes, ranges: list[Interval], outer: bool) -> list[Interval]:
    """The codes that `ranges` touch (`outer`), or those that they hold whole."""
    codes = []
    for low, high in ranges:
        if outer:
            first, last = low >> planes.shift, high >> planes.shift
        else:
            first, last = -(-low >> planes.shift), (high + 1 >> planes.shift) - 1
        first, last = max(first - planes.base, 0), min(last - planes.base, planes.top)
        if first <= last:
            codes.append((first, last))
    return merge(codes)


def _beyond(planes: SlicedPlanes, ranges: list[Interval], outer: bool) -> tuple[bool, bool]:
    """Whether `ranges` touch (`outer`), or hold whole, the numbers below and those above all codes."""
    least, most = _limits(planes.floating)
    below_last = (planes.base << planes.shift) - 1
    above_first = planes.base + planes.top + 1 << planes.shift
    if outer:
        return any(low <= below_last for low, _ in ranges), any(high >= above_first for _, high in ranges)
    return (
        any(low <= least and high >= below_last for low, high in ranges),
        any(low <= above_first and high >= most for low, high in ranges),
    )


def _sliced_node(
    circuit: Circuit, field: FieldPlanes, planes: SlicedPlanes, codes: list[Interval], beyond: tuple[bool, bool]
) -> Node:
    """True for numbers whose code is in `codes`, and for those below and above all codes as `beyond` says."""
    with_below, with_above = beyond
    if with_below and with_above and codes == [(0, planes.top)]:
        return _has(circuit, field)
    slices = [circuit.plane(planes.first + 2 + bit) for bit in range(planes.width)]
    # No item has a code above top: a range that ends there may as well end where the slices do.
    codes = [(low, (1 << planes.width) - 1 if high == planes.top else high) for low, high in codes]
    node = intervals_node(circuit, slices, codes)
    below, above = circuit.plane(planes.first), circuit.plane(planes.first + 1)
    if codes and codes[0][0] == 0:
        # Missing numbers and those beyond the codes have no slice set, so they pass as code 0.
        unwanted = [plane for plane, wanted in ((below, with_below), (above, with_above)) if not wanted]
        return circuit.all([node, _has(circuit, field), *map(circuit.negate, unwanted)])
    wanted = [plane for plane, wanted in ((below, with_below), (above, with_above)) if wanted]
    return circuit.any([node, *wanted])


def _groups_node(circuit: Circuit, groups: list[list[int]]) -> Node:
    """True where all planes of any group are set; groups that begin alike share their first planes."""
    return circuit.any(_disjuncts(circuit, groups))


def _disjuncts(circuit: Circuit, groups: list[list[int]]) -> list[Node]:
    if not groups or not groups[0]:
        return [circuit.true] if groups else []
    if len(groups) == 1:
        return [circuit.all([circuit.plane(plane) for plane in groups[0]])]
    rests: dict[int, list[list[int]]] = {}
    for first, *rest in groups:
        rests.setdefault(first, []).append(rest)
    nodes = []
    for first, tails in rests.items():
        disjuncts = _disjuncts(circuit, tails)
        if len(groups[0]) <= NESTED_BLOCKS:
            disjuncts = [circuit.any(disjuncts)]
        nodes += [circuit.all([circuit.plane(first), node]) for node in disjuncts]
    return nodes
