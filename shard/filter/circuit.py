"""Boolean functions of planes, and the plane programs that compute them.

A node is made by a `Circuit`, which folds constants, flattens, and gives equal functions of one shape the same node.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from silverray.kernels.programs import Opcode, instruction
from silverray.shard.filter.deadline import NEVER, Deadline

Kind = Literal["true", "false", "plane", "and", "or", "not"]


@dataclass(slots=True, eq=False)  # not frozen: a circuit makes thousands, and a frozen one takes thrice the time
class Node:
    """A boolean function of planes; compare with `is`.

    Attributes:
        kind: the constant, plane or connective.
        plane: the plane of a "plane".
        operands: what a connective joins: two or more for "and" and "or", one for "not".
        size: instructions that compute it.
        depth: stack places that computing it takes.
        number: order of creation within its circuit.
    """

    kind: Kind
    plane: int
    operands: tuple[Node, ...]
    size: int
    depth: int
    number: int


class Circuit:
    """Makes nodes.

    Args:
        deadline: looked at before each, and for whoever makes them to look at.

    Attributes:
        deadline: as given.
    """

    def __init__(self, deadline: Deadline = NEVER) -> None:
        self.deadline = deadline
        self._nodes: dict[tuple[Kind, int, tuple[int, ...]], Node] = {}
        self._planes: dict[int, Node] = {}
        self.true = self._node("true")
        self.false = self._node("false")

    def plane(self, plane: int) -> Node:
        """The plane itself."""
        node = self._planes.get(plane)
        if node is None:
            node = self._planes[plane] = self._node("plane", plane)
        return node

    def constant(self, value: bool) -> Node:
        """True or false everywhere."""
        return self.true if value else self.false

    def negate(self, node: Node) -> Node:
        """Not `node`."""
        match node.kind:
            case "true":
                return self.false
            case "false":
                return self.true
            case "not":
                return node.operands[0]
        return self._node("not", operands=(node,))

    def all(self, nodes: Iterable[Node]) -> Node:
        """True where every node is."""
        return self._join("and", nodes, self.true, self.false)

    def any(self, nodes: Iterable[Node]) -> Node:
        """True where any node is."""
        return self._join("or", nodes, self.false, self.true)

    def _join(self, kind: Literal["and", "or"], nodes: Iterable[Node], neutral: Node, absorbing: Node) -> Node:
        operands: dict[int, Node] = {}
        negated: list[int] = []
        for node in nodes:
            for operand in (node,) if node.kind == "plane" else self._flatten(kind, node):
                if operand is absorbing:
                    return absorbing
                if operand is not neutral:
                    operands[operand.number] = operand
                    if operand.kind == "not":
                        negated.append(operand.operands[0].number)
        if any(number in operands for number in negated):
            return absorbing
        if not operands:
            return neutral
        if len(operands) == 1:
            return next(iter(operands.values()))
        ordered = tuple(operands.values())
        if not negated:
            return self._node(kind, operands=ordered)
        if all(node.kind == "not" for node in ordered):
            return self._negated(kind, ordered)
        # One negation of a join costs less than a join of negations; a plane's costs nothing within an "and".
        merged = {
            node: None for node in ordered if node.kind == "not" and (kind == "or" or node.operands[0].kind != "plane")
        }
        if len(merged) > 1:
            kept = (node for node in ordered if node not in merged)
            ordered = *kept, self._negated(kind, merged)
        return self._node(kind, operands=ordered)

    def _negated(self, kind: Literal["and", "or"], negations: Iterable[Node]) -> Node:
        inner = (node.operands[0] for node in negations)
        return self.negate(self.any(inner) if kind == "and" else self.all(inner))

    def _flatten(self, kind: Literal["and", "or"], node: Node) -> Iterable[Node]:
        if node.kind == kind:
            return node.operands
        if kind == "and" and node.kind == "not" and node.operands[0].kind == "or":
            inner = node.operands[0].operands
            if all(operand.kind == "plane" for operand in inner):
                return [self.negate(operand) for operand in inner]
        return (node,)

    def _node(self, kind: Kind, plane: int = 0, operands: tuple[Node, ...] = ()) -> Node:
        key = kind, plane, tuple([operand.number for operand in operands])  # a generator takes twice the time
        node = self._nodes.get(key)
        if node is None:
            self.deadline.check()
            size, depth = _cost(kind, operands)
            node = self._nodes[key] = Node(kind, plane, operands, size, depth, len(self._nodes))
        return node

    def fit(self, node: Node, depth: int, upper: bool = True) -> Node:
        """Find a node near `node` that `depth` stack places can compute.

        Args:
            node: what to approach.
            depth: the places, 1 or more.
            upper: whether the result must be true (else: may be true only) wherever `node` is.

        Returns:
            `node` itself where it fits, else a superset (subset) of it.
        """
        if node.depth <= depth:
            return node
        if node.kind == "not":
            return self.negate(self.fit(node.operands[0], depth, not upper))
        stacked, fused = _order(node.kind, node.operands)
        deepest, *others = stacked
        kept = [*fused, self.fit(deepest, depth, upper)]
        if depth > 1:
            kept += [self.fit(operand, depth - 1, upper) for operand in others]
        elif others:
            kept.append(self.constant(upper))
        joined = self.all(kept) if node.kind == "and" else self.any(kept)
        # Joining can flatten operands into a shape that needs more places again.
        return joined if joined.depth <= depth else self.constant(upper)


def emit(node: Node) -> list[int]:
    """Write the instructions of a node that is no constant: `node.size` of them, using `node.depth` stack places."""
    match node.kind:
        case "plane":
            return [instruction(Opcode.LOAD, node.plane)]
        case "not":
            return [*emit(node.operands[0]), instruction(Opcode.STACK_NOT)]
    conjunction = node.kind == "and"
    join = instruction(Opcode.STACK_AND if conjunction else Opcode.STACK_OR)
    stacked, fused = _order(node.kind, node.operands)
    program: list[int] = []
    for operand in stacked:
        program += [*emit(operand), join] if program else emit(operand)
    for operand in fused:
        if not program:
            program = emit(operand)
        elif operand.kind == "not":
            program.append(instruction(Opcode.ANDNOT, operand.operands[0].plane))
        else:
            program.append(instruction(Opcode.AND if conjunction else Opcode.OR, operand.plane))
    return program


def _order(kind: Kind, operands: tuple[Node, ...]) -> tuple[list[Node], list[Node]]:
    """Split operands into those that take a stack place, deepest first, and planes that one instruction joins."""
    stacked, loads, negations = [], [], []
    for node in operands:
        if node.kind == "plane":
            loads.append(node)
        elif kind == "and" and node.kind == "not" and node.operands[0].kind == "plane":
            negations.append(node)
        else:
            stacked.append(node)
    stacked.sort(key=lambda node: -node.depth)
    return stacked, loads + negations


def _cost(kind: Kind, operands: tuple[Node, ...]) -> tuple[int, int]:
    if kind == "not":
        return operands[0].size + 1, operands[0].depth
    if not operands:
        return 1, 1
    stacked, fused = _order(kind, operands)
    size = sum(node.size for node in stacked) + max(len(stacked) - 1, 0) + len(fused)
    depths = [node.depth + (place > 0) for place, node in enumerate(stacked)]
    return size, max(depths, default=1)
