"""How leaves of a filter are bounded by functions of planes: values hashed to planes, codes sliced into them."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

import numpy as np

from silverray.kernels.programs import MAX_INSTRUCTIONS
from silverray.shard.filter.circuit import Circuit, Node
from silverray.shard.filter.expression import INT_MAX, INT_MIN, OneOf, Range
from silverray.shard.filter.intervals import Interval, coarsen, intervals_node, least_size, merge, merge_nearest
from silverray.shard.filter.ladder import Ladder, Rung
from silverray.shard.filter.layout import FieldPlanes, PlaneLayout
from silverray.shard.filter.planes import (
    BooleanPlanes,
    ExactPlanes,
    HashedPlanes,
    SlicedPlanes,
)

LEAF_BUDGETS = (MAX_INSTRUCTIONS, 512, 256, 128, 64, 32, 16, 8)
"""Instructions that one leaf may take, tried in turn until the program is short enough."""
NESTED_BLOCKS = 3
"""Blocks of a hashed group whose planes are factored out of a list; more would take more stack."""

Leaf = OneOf | Range
Place = tuple[int, ...]
Beyond = tuple[bool, bool]


class Leaves:
    """Makes the ladders of a filter's leaves, each once; equal leaves share one.

    Args:
        layout: what the planes mean.
        circuit: makes the nodes.
        leaves: all leaves, which live as long; the places of their values are found together.
    """

    def __init__(self, layout: PlaneLayout, circuit: Circuit, leaves: Iterable[Leaf]) -> None:
        self._layout = layout
        self._circuit = circuit
        self._nothing = Rung(0, lambda: circuit.false)
        self._ladders: dict[int, Ladder] = {}
        self._equal: dict[int, Leaf] = {}
        distinct: dict[Leaf, Leaf] = {}
        values: dict[str, set[int]] = {}
        for leaf in leaves:
            first = self._equal[id(leaf)] = distinct.setdefault(leaf, leaf)  # hashing one again takes its time again
            if first is leaf and isinstance(leaf, OneOf):
                values.setdefault(leaf.field, set()).update(leaf.values)  # type: ignore[arg-type]  # of what is hashed
        self._known: dict[str, dict[int, int]] = {}
        self._hashed: dict[str, dict[int, Place]] = {}
        for name, wanted in values.items():
            planes = layout.fields[name].planes
            if isinstance(planes, ExactPlanes):
                places = {value: planes.first + place for place, value in enumerate(planes.values)}
                self._known[name] = {value: places[value] for value in wanted if value in places}
                self._hashed[name] = _places(planes.other, wanted - self._known[name].keys())
            elif isinstance(planes, HashedPlanes):
                self._known[name], self._hashed[name] = {}, _places(planes, wanted)

    def __getitem__(self, leaf: Leaf) -> Ladder:
        ladder = self._ladders.get(id(leaf))
        if ladder is None:
            self._circuit.deadline.check()
            first = self._equal[id(leaf)]
            ladder = self._ladder(leaf) if first is leaf else self[first]
            self._ladders[id(leaf)] = ladder
        return ladder

    def _ladder(self, leaf: Leaf) -> Ladder:
        field = self._layout.fields[leaf.field]
        match field.planes:
            case SlicedPlanes():
                return self._sliced(leaf, field, field.planes)
            case BooleanPlanes(plane):
                return Ladder(Rung(1, lambda: self._boolean(leaf, field, plane)), lambda: iter(()))
            case HashedPlanes() if isinstance(leaf, OneOf) and len(leaf.values) == 1:
                return self._of_text(self._hashed[leaf.field][leaf.values[0]], field)  # type: ignore[index]
            case ExactPlanes() | HashedPlanes():
                if isinstance(leaf, Range):
                    raise ValueError(f"{leaf.field}: a Range needs a field of numbers")
                return self._of_texts(leaf, field)

    def _boolean(self, leaf: Leaf, field: FieldPlanes, plane: int) -> Node:
        circuit = self._circuit
        yes = circuit.plane(plane)
        no = circuit.all([circuit.negate(yes), has_value(circuit, field)])
        return circuit.any([(no, yes)[value] for value in (0, 1) if _accepts(leaf, value)])

    def _of_texts(self, leaf: OneOf, field: FieldPlanes) -> Ladder:
        circuit, known_planes, hashed_places = self._circuit, self._known[leaf.field], self._hashed[leaf.field]
        known = [known_planes[value] for value in leaf.values if value in known_planes]  # type: ignore[index]
        places = [hashed_places[value] for value in leaf.values if value not in known_planes]  # type: ignore[index]
        if not known and len(places) == 1:
            return self._of_text(places[0], field)
        exact = Rung(len(known), lambda: circuit.any([circuit.plane(plane) for plane in known]))
        groups = (*((plane,) for plane in known), *places)
        if not places:
            return Ladder(exact, lambda: iter([self._present(field)]), groups=groups)
        prefixes = [len({place[:cut] for place in places}) for cut in range(1, len(places[0]) + 1)]

        def rung(blocks: int) -> Rung:
            def upper() -> Node:
                return circuit.any([exact.node, _groups_node(circuit, [place[:blocks] for place in places])])

            return Rung(len(known) + _groups_size(prefixes[:blocks]), upper)

        def rest() -> Iterator[Rung]:
            return chain(map(rung, range(len(prefixes) - 1, 0, -1)), [self._present(field)])

        return Ladder(rung(len(prefixes)), rest, exact, groups)

    def _of_text(self, place: Place, field: FieldPlanes) -> Ladder:
        """The ladder of one hashed value: as in `_of_texts`, at a fraction of the time."""
        planes = self._circuit.planes

        def rest() -> Iterator[Rung]:
            for blocks in range(len(place) - 1, 0, -1):
                yield Rung(blocks, partial(planes, place[:blocks]))
            yield self._present(field)

        return Ladder(Rung(len(place), partial(planes, place)), rest, self._nothing, (place,))

    def _present(self, field: FieldPlanes) -> Rung:
        return Rung(1, lambda: has_value(self._circuit, field))

    def _sliced(self, leaf: Leaf, field: FieldPlanes, planes: SlicedPlanes) -> Ladder:
        ranges = _number_ranges(leaf, planes.floating)
        outer, beyond = _code_ranges(planes, ranges, outer=True), _beyond(planes, ranges, outer=True)
        # Without a shift codes are whole numbers, which ranges hold whole where they touch them.
        same = not planes.shift and beyond == _beyond(planes, ranges, outer=False)
        inner = outer if same else _code_ranges(planes, ranges, outer=False)
        inner_beyond = _beyond(planes, ranges, outer=False)
        lower = None
        if (inner, inner_beyond) != (outer, beyond):
            lower = self._rung(field, planes, inner, inner_beyond)

        def rungs() -> Iterator[Rung]:
            codes = outer
            while len(codes) > 1:
                codes = merge_nearest(codes, len(codes) // 2)
                yield self._rung(field, planes, codes, beyond)
            for budget in LEAF_BUDGETS:
                coarse = coarsen(codes, max(planes.width - budget // 4, 0), planes.top)
                if coarse != codes:
                    codes = coarse
                    yield self._rung(field, planes, codes, beyond)

        return Ladder(self._rung(field, planes, outer, beyond), rungs, lower)

    def _rung(self, field: FieldPlanes, planes: SlicedPlanes, codes: list[Interval], beyond: Beyond) -> Rung:
        # No item has a code above top: a range that ends there may as well end where the slices do.
        open_ended = [(low, (1 << planes.width) - 1 if high == planes.top else high) for low, high in codes]
        least = least_size(planes.width, open_ended, MAX_INSTRUCTIONS)
        return Rung(least, lambda: _sliced_node(self._circuit, field, planes, codes, open_ended, beyond))


def has_value(circuit: Circuit, field: FieldPlanes) -> Node:
    """True where a field has a value."""
    return circuit.true if field.has is None else circuit.plane(field.has)


def _places(group: HashedPlanes, values: Iterable[int]) -> dict[int, Place]:
    listed = list(values)
    return dict(zip(listed, map(tuple, group.places(np.array(listed, dtype=np.int64)).tolist()), strict=True))


def _accepts(leaf: Leaf, value: int) -> bool:
    if isinstance(leaf, OneOf):
        return value in leaf.values
    return (leaf.low is None or leaf.low <= value) and (leaf.high is None or value <= leaf.high)


def _number_ranges(leaf: Leaf, floating: bool) -> list[Interval]:
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
    packed = struct.pack(f"{len(values)}d", *values)
    return [raw ^ (raw >> 63 & INT_MAX) for raw in struct.unpack(f"{len(values)}q", packed)]  # as `float_numbers`


_LEAST, _MOST = _numbers([-math.inf, math.inf], floating=True)


def _limits(floating: bool) -> Interval:
    if not floating:
        return INT_MIN, INT_MAX
    return _LEAST, _MOST


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


def _beyond(planes: SlicedPlanes, ranges: list[Interval], outer: bool) -> Beyond:
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
    circuit: Circuit,
    field: FieldPlanes,
    planes: SlicedPlanes,
    codes: list[Interval],
    open_ended: list[Interval],
    beyond: Beyond,
) -> Node:
    """True for numbers whose code is in `codes`, and for those below and above all codes as `beyond` says.

    Args:
        open_ended: `codes`, where the last may reach beyond the top of all.
    """
    with_below, with_above = beyond
    if with_below and with_above and codes == [(0, planes.top)]:
        return has_value(circuit, field)
    first = planes.first + 2
    node = intervals_node(circuit, [*map(circuit.plane, range(first, first + planes.width))], open_ended)
    below, above = circuit.plane(planes.first), circuit.plane(planes.first + 1)
    if codes and codes[0][0] == 0:
        # Missing numbers and those beyond the codes have no slice set, so they pass as code 0.
        unwanted = [plane for plane, wanted in ((below, with_below), (above, with_above)) if not wanted]
        return circuit.all([node, has_value(circuit, field), *map(circuit.negate, unwanted)])
    wanted = [plane for plane, wanted in ((below, with_below), (above, with_above)) if wanted]
    return circuit.any([node, *wanted])


def _groups_size(prefixes: Sequence[int]) -> int:
    """Instructions of `_groups_node` for groups of which so many begin differently, by planes looked at."""
    size, joins = sum(prefixes), prefixes[-2] - 1 if len(prefixes) > 1 else 0
    repeated = len(prefixes) - NESTED_BLOCKS
    if repeated > 0:  # planes that are not factored out stand before each of the rest
        size += sum(prefixes[repeated] - count for count in prefixes[:repeated])
    return size + joins


def _groups_node(circuit: Circuit, groups: Sequence[Place]) -> Node:
    """True where all planes of any group are set; groups that begin alike share their first planes."""
    return circuit.any(_disjuncts(circuit, groups))


def _disjuncts(circuit: Circuit, groups: Sequence[Place]) -> list[Node]:
    if not groups or not groups[0]:
        return [circuit.true] if groups else []
    if len(groups) == 1:
        return [circuit.all([circuit.plane(plane) for plane in groups[0]])]
    rests: dict[int, list[Place]] = {}
    for group in groups:
        rests.setdefault(group[0], []).append(group[1:])
    nodes = []
    for first, tails in rests.items():
        disjuncts = _disjuncts(circuit, tails)
        if len(groups[0]) <= NESTED_BLOCKS:
            disjuncts = [circuit.any(disjuncts)]
        nodes += [circuit.all([circuit.plane(first), node]) for node in disjuncts]
    return nodes
