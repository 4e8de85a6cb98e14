"""The order in which a graph's operations run, and the memory that they re-use.

A result is written over the first argument that nothing reads afterwards, where it has the same shape and type: most
of a formula then works on a few `[B, K]` arrays that stay in the processor's caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from silverray.shard.value.graph import Extent, Node
from silverray.shard.value.operations import OPERATIONS


class Step(NamedTuple):
    """One operation.

    Attributes:
        run: the operation.
        arguments: places of what it takes.
        result: place of what it makes.
        dropped: places whose values nothing reads afterwards.
    """

    run: Callable[..., Tensor]
    arguments: tuple[int, ...]
    result: int
    dropped: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Program:
    """A graph, ready to run.

    Attributes:
        sources: nodes that are no operations, by place: constants, tables, and what a request brings.
        steps: what to run, in order.
        places: number of places.
        result: place of the score.
    """

    sources: tuple[Node, ...]
    steps: tuple[Step, ...]
    places: int
    result: int

    @classmethod
    def of(cls, root: Node) -> Program:
        """Order what a node needs."""
        nodes = _needed(root)
        sources = tuple(node for node in nodes if node.operation not in OPERATIONS)
        operations = [node for node in nodes if node.operation in OPERATIONS]
        places = {node: place for place, node in enumerate([*sources, *operations])}
        last = {operand: node for node in operations for operand in node.operands}
        steps = [_step(node, places, last) for node in operations]
        return cls(sources, tuple(steps), len(places), places[root])

    def run(self, sources: Sequence[Any]) -> Any:
        """Run the steps.

        Args:
            sources: the values of the sources, in their order: tensors, or scalars for constants.

        Returns:
            The score: a tensor that no source shares, or the scalar of a constant.
        """
        values = [*sources, *[None] * (self.places - len(sources))]
        for step in self.steps:
            values[step.result] = step.run(*[values[place] for place in step.arguments])
            for place in step.dropped:
                values[place] = None
        return values[self.result]


def _needed(root: Node) -> list[Node]:
    """A node and all below it, in the order of creation."""
    found, left = {root}, [root]
    while left:
        for operand in left.pop().operands:
            if operand not in found:
                found.add(operand)
                left.append(operand)
    return sorted(found, key=lambda node: node.number)


def _step(node: Node, places: dict[Node, int], last: dict[Node, Node]) -> Step:
    spec, operands = OPERATIONS[node.operation], list(node.operands)
    free = [operand for operand in operands if _replaceable(operand, node, last)]
    if spec.commutes and free:
        operands.sort(key=lambda operand: operand is not free[0])
    run = spec.run
    if spec.reuse is not None and free and operands[0] is free[0]:
        run = spec.reuse
    dropped = {places[operand] for operand in operands if last[operand] is node}
    return Step(run, tuple(places[operand] for operand in operands), places[node], tuple(sorted(dropped)))


def _replaceable(operand: Node, node: Node, last: dict[Node, Node]) -> bool:
    """Whether a result can be written over an operand."""
    own = operand.operation in OPERATIONS and last[operand] is node and node.operands.count(operand) == 1
    return own and operand.dtype == node.dtype and operand.extent == node.extent == Extent.ITEM
