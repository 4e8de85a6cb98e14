"""Upper and lower bounds of a filter as boolean functions of planes.

`upper` is true wherever the expression is, `lower` nowhere else; where both are one node, planes decide alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from silverray.shard.filter.circuit import Circuit, Node
from silverray.shard.filter.expression import And, Expression, Not, OneOf, Or, PlaneTest, Present, Range
from silverray.shard.filter.ladder import Groups, Ladder, fits
from silverray.shard.filter.layout import PlaneLayout
from silverray.shard.filter.leaves import Leaf, Leaves, has_value


class Bounds:
    """An expression's bounds, each made once it is asked for: a negation needs the other one of what it negates.

    Args:
        upper: makes the function that is true wherever the expression is.
        lower: makes the one that is true nowhere else.
        decided: says whether both are the expression itself.
    """

    def __init__(self, upper: Callable[[], Node], lower: Callable[[], Node], decided: Callable[[], bool]) -> None:
        self._upper, self._lower, self._decided = upper, lower, decided

    @cached_property
    def upper(self) -> Node:
        """True wherever the expression is."""
        return self._upper()

    @cached_property
    def lower(self) -> Node:
        """True nowhere else."""
        return self._lower()

    @cached_property
    def decided(self) -> bool:
        """Whether planes decide alone."""
        return self._decided()


class LeafBounds(Bounds):
    """A leaf's bounds within a budget.

    Args:
        ladder: its upper bounds; one that is not the first comes with no lower bound.
        circuit: makes the nodes.
        budget: instructions that an upper bound may take.

    Attributes:
        ladder: as given.
    """

    def __init__(self, ladder: Ladder, circuit: Circuit, budget: int) -> None:
        self.ladder = ladder
        self._circuit = circuit
        self._budget = budget

    @cached_property
    def loosened(self) -> bool:
        """Whether `upper` is not the first of the ladder, which no budget was needed for."""
        return not fits(self.ladder.top, self._budget)

    @cached_property
    def upper(self) -> Node:
        """True wherever the leaf is."""
        self._circuit.deadline.check()
        return self.ladder.fitting(self._budget).node

    @cached_property
    def lower(self) -> Node:
        """True nowhere else."""
        self._circuit.deadline.check()
        if self.loosened:
            return self._circuit.false
        return self.upper if self.ladder.lower is None else self.ladder.lower.node

    @cached_property
    def decided(self) -> bool:
        """Whether planes decide alone."""
        return not self.loosened and self.upper is self.lower

    @property
    def groups(self) -> Groups | None:
        """The planes of a hashed leaf, one group a value; None for all else, and where planes decide alone."""
        return None if self.decided else self.ladder.groups

    def least(self, positive: bool) -> int:
        """Instructions that `upper` (else: `lower`) takes at the least; makes none where that is many."""
        return self.ladder.least(self._budget) if positive or self.ladder.top.least <= self._budget else 1


class Bounder:
    """Finds bounds of expressions.

    Args:
        layout: what the planes mean.
        circuit: makes the nodes.
        leaves: makes bounds of leaves.
        budget: instructions that one leaf may take; a longer one gets a looser upper bound and no lower one.

    Attributes:
        deadline: the circuit's.
    """

    def __init__(self, layout: PlaneLayout, circuit: Circuit, leaves: Leaves, budget: int) -> None:
        self._layout = layout
        self.deadline = circuit.deadline
        self._circuit = circuit
        self._ladders = leaves
        self._budget = budget
        self._leaves: dict[Leaf, LeafBounds] = {}
        self._joins: dict[tuple[int, bool, bool], tuple[And | Or, Bounds]] = {}

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
        self.deadline.check()
        match expression:
            case Present(field):
                node = has_value(circuit, self._layout.fields[field])
                return Bounds(lambda: node, lambda: node, lambda: True)
            case OneOf() | Range():
                leaf = self.leaf(expression)
                if trust and positive and leaf.groups is not None and not leaf.loosened:
                    return Bounds(lambda: leaf.upper, lambda: leaf.upper, lambda: True)
                return leaf
            case Not(operand):
                inner = self.bounds(operand, trust, not positive)
                return Bounds(
                    lambda: circuit.negate(inner.lower), lambda: circuit.negate(inner.upper), lambda: inner.decided
                )
            case And() | Or():
                return self._join(expression, trust, positive)
            case PlaneTest():
                raise ValueError("expression: a PlaneTest is made by the compiler, it cannot be compiled")

    def _join(self, expression: And | Or, trust: bool, positive: bool) -> Bounds:
        """Bounds of a join, which is asked for again by the checks of what holds it."""
        key = id(expression), trust, positive  # hashing it would take as long as finding its bounds
        if key not in self._joins:
            parts = [self.bounds(operand, trust, positive) for operand in expression.operands]
            circuit = self._circuit
            conjunction = isinstance(expression, And)
            join, absorbing = (circuit.all, circuit.false) if conjunction else (circuit.any, circuit.true)
            bounds = Bounds(
                lambda: join([part.upper for part in parts]),
                lambda: join([part.lower for part in parts]),
                lambda: (
                    all(part.decided for part in parts)
                    or any(part.decided and part.lower is absorbing for part in parts)
                ),
            )
            self._joins[key] = expression, bounds  # with the expression, so that no other gets its number
        return self._joins[key][1]

    def leaf(self, leaf: Leaf) -> LeafBounds:
        """Find the bounds of a leaf."""
        bounds = self._leaves.get(leaf)
        if bounds is None:
            bounds = self._leaves[leaf] = LeafBounds(self._ladders[leaf], self._circuit, self._budget)
        return bounds
