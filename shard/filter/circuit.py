"""Boolean functions of planes, and the plane programs that compute them.

A node is made by a `Circuit`, which folds constants, flattens, and gives equal functions of one shape the same node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from silverray.kernels.programs import Opcode, instruction
from silverray.shard.filter.deadline import NEVER, Deadline

Kind = Literal["true", "false", "plane", "and", "or", "not"]


@dataclass(slots=True, eq=False)  # not frozen: a circuit makes thousands, and a frozen one takes thrice the time
class Node:
    """A boolean function of planes; compare with `is`, which hashing does too.

    Attributes:
        kind: the constant, plane or connective.
        plane: the plane of a "plane".
        operands: what a connective joins: two or more for "and" and "or", one for "not".
        size: instructions that compute it.
        depth: stack places that computing it takes.
        flat: whether `operands` are planes alone.
    """

    kind: Kind
    plane: int
    operands: tuple[Node, ...]
    size: int
    depth: int
    flat: bool


_Key = tuple[Kind, tuple[Node, ...]]


class _Planes(dict[int, Node]):
    """Nodes of planes, made once they are asked for; filters ask for so many that a method's call would count."""

    def __missing__(self, plane: int) -> Node:
        node = self[plane] = Node("plane", plane, (), 1, 1, True)
        return node


class Circuit:
    """Makes nodes.

    Args:
        deadline: looked at before each, and for whoever makes them to look at.

    Attributes:
        deadline: as given.
        plane: makes the node of a plane itself.
    """

    def __init__(self, deadline: Deadline = NEVER) -> None:
        self.deadline = deadline
        self._nodes: dict[_Key, Node] = {}
        self.plane: Callable[[int], Node] = _Planes().__getitem__
        self.true = self._node("true", ())
        self.false = self._node("false", ())

    def planes(self, planes: Sequence[int]) -> Node:
        """True where all of one or more planes are set, which are different ones."""
        operands = tuple(map(self.plane, planes))
        if len(operands) == 1:
            return operands[0]
        key: _Key = "and", operands
        node = self._nodes.get(key)
        if node is None:
            self.deadline.check()
            node = self._nodes[key] = Node("and", 0, operands, len(operands), 1, True)
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
        return self._node("not", (node,))

    def all(self, nodes: Iterable[Node]) -> Node:
        """True where every node is."""
        return self._join("and", nodes, self.true, self.false)

    def any(self, nodes: Iterable[Node]) -> Node:
        """True where any node is."""
        return self._join("or", nodes, self.false, self.true)

    def _join(self, kind: Literal["and", "or"], nodes: Iterable[Node], neutral: Node, absorbing: Node) -> Node:
        operands: dict[Node, None] = {}
        negated: list[Node] = []
        for node in nodes:
            if node.kind == "plane":
                operands[node] = None
            elif node.flat and node.kind == kind:
                operands.update(dict.fromkeys(node.operands))
            else:
                for operand in self._flatten(kind, node):
                    if operand is absorbing:
                        return absorbing
                    if operand is not neutral:
                        operands[operand] = None
                        if operand.kind == "not":
                            negated.append(operand.operands[0])
        if not operands.keys().isdisjoint(negated):
            return absorbing
        if not operands:
            return neutral
        if len(operands) == 1:
            return next(iter(operands))
        ordered = tuple(operands)
        if not negated:
            return self._node(kind, ordered)
        if all(node.kind == "not" for node in ordered):
            return self._negated(kind, ordered)
        # One negation of a join costs less than a join of negations; a plane's costs nothing within an "and".
        merged = {node: None for node in ordered if node.kind == "not" and (kind == "or" or not node.flat)}
        if len(merged) > 1:
            kept = (node for node in ordered if node not in merged)
            ordered = *kept, self._negated(kind, merged)
        return self._node(kind, ordered)

    def _negated(self, kind: Literal["and", "or"], negations: Iterable[Node]) -> Node:
        inner = (node.operands[0] for node in negations)
        return self.negate(self.any(inner) if kind == "and" else self.all(inner))

    def _flatten(self, kind: Literal["and", "or"], node: Node) -> Iterable[Node]:
        if node.kind == kind:
            return node.operands
        if kind == "and" and node.kind == "not" and node.operands[0].kind == "or":
            joined = node.operands[0]
            if joined.flat:
                return [self.negate(operand) for operand in joined.operands]
        return (node,)

    def _node(self, kind: Kind, operands: tuple[Node, ...]) -> Node:
        key: _Key = kind, operands
        node = self._nodes.get(key)
        if node is None:
            self.deadline.check()
            node = self._nodes[key] = Node(kind, 0, operands, *_cost(kind, operands))
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
        elif kind == "and" and node.kind == "not" and node.flat:
            negations.append(node)
        else:
            stacked.append(node)
    stacked.sort(key=lambda node: -node.depth)
    return stacked, loads + negations


def _cost(kind: Kind, operands: tuple[Node, ...]) -> tuple[int, int, bool]:
    """Instructions, stack places, and whether there are only planes, which one instruction joins (see `_order`)."""
    if kind == "not":
        (node,) = operands
        return node.size + 1, node.depth, node.kind == "plane"
    planes = size = stacked = deepest = next_deepest = 0
    for node in operands:
        if node.kind == "plane":
            planes += 1
        elif kind == "and" and node.kind == "not" and node.flat:
            size += 1
        else:
            stacked += 1
            size += node.size
            deepest, next_deepest = max(deepest, node.depth), max(next_deepest, min(deepest, node.depth))
    size += planes + max(stacked - 1, 0)
    return size or 1, max(deepest, next_deepest + (stacked > 1), 1), planes == len(operands)
