"""Upper and lower bounds of a filter as boolean functions of planes.

`upper` is true wherever the expression is, `lower` nowhere else; where both are one node, planes decide alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from silverray.shard.filter.circuit import Circuit, Node
from silverray.shard.filter.expression import And, Expression, Not, OneOf, Or, PlaneTest, Present, Range
from silverray.shard.filter.ladder import Groups, Ladder, fits
from silverray.shard.filter.layout import PlaneLayout
from silverray.shard.filter.leaves import Leaf, Leaves, has_value


class Bounds(ABC):
    """An expression's bounds, each made once it is asked for: a negation needs the other one of what it negates."""

    __slots__ = ()

    @property
    @abstractmethod
    def upper(self) -> Node:
        """True wherever the expression is."""

    @property
    @abstractmethod
    def lower(self) -> Node:
        """True nowhere else."""

    @property
    @abstractmethod
    def decided(self) -> bool:
        """Whether planes decide alone: both are the expression itself."""


class ExactBounds(Bounds):
    """Those of what planes decide alone."""

    __slots__ = ("_node",)

    decided = True

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def upper(self) -> Node:
        """True wherever the expression is."""
        return self._node

    @property
    def lower(self) -> Node:
        """True nowhere else."""
        return self._node


class NegatedBounds(Bounds):
    """Those of what negates something."""

    __slots__ = ("_circuit", "_inner")

    def __init__(self, inner: Bounds, circuit: Circuit) -> None:
        self._inner = inner
        self._circuit = circuit

    @property
    def upper(self) -> Node:
        """True wherever the expression is."""
        return self._circuit.negate(self._inner.lower)

    @property
    def lower(self) -> Node:
        """True nowhere else."""
        return self._circuit.negate(self._inner.upper)

    @property
    def decided(self) -> bool:
        """Whether planes decide alone."""
        return self._inner.decided


class JoinedBounds(Bounds):
    """Those of a conjunction or a disjunction."""

    __slots__ = ("_absorbing", "_check", "_decided", "_join", "_lower", "_parts", "_upper")

    def __init__(self, parts: Sequence[Bounds], circuit: Circuit, conjunction: bool) -> None:
        self._parts = parts
        self._check = circuit.deadline.check
        self._join, self._absorbing = (circuit.all, circuit.false) if conjunction else (circuit.any, circuit.true)
        self._upper: Node | None = None
        self._lower: Node | None = None
        self._decided: bool | None = None

    @property
    def upper(self) -> Node:
        """True wherever the expression is."""
        if self._upper is None:
            self._check()
            self._upper = self._join([part.upper for part in self._parts])
        return self._upper

    @property
    def lower(self) -> Node:
        """True nowhere else."""
        if self._lower is None:
            self._check()
            self._lower = self._join([part.lower for part in self._parts])
        return self._lower

    @property
    def decided(self) -> bool:
        """Whether planes decide alone."""
        if self._decided is None:
            self._check()
            decided = [part for part in self._parts if part.decided]
            absorbing = self._absorbing
            self._decided = len(decided) == len(self._parts) or any(part.lower is absorbing for part in decided)
        return self._decided


class LeafBounds(Bounds):
    """A leaf's bounds within a budget.

    Args:
        ladder: its upper bounds; one that is not the first comes with no lower bound.
        circuit: makes the nodes.
        budget: instructions that an upper bound may take.

    Attributes:
        loosened: whether `upper` is not the first of the ladder, which no budget was needed for.
    """

    __slots__ = ("_budget", "_circuit", "_decided", "_ladder", "_upper", "loosened")

    def __init__(self, ladder: Ladder, circuit: Circuit, budget: int) -> None:
        self._ladder = ladder
        self._circuit = circuit
        self.loosened = not fits(ladder.top, budget)
        self._budget = budget
        self._upper: Node | None = None
        self._decided: bool | None = None

    @property
    def upper(self) -> Node:
        """True wherever the expression is."""
        if self._upper is None:
            ladder = self._ladder
            self._upper = ladder.fitting(self._budget).node if self.loosened else ladder.top.node
        return self._upper

    @property
    def lower(self) -> Node:
        """True nowhere else."""
        if self.loosened:
            return self._circuit.false
        return self.upper if self._ladder.lower is None else self._ladder.lower.node

    @property
    def decided(self) -> bool:
        """Whether planes decide alone."""
        if self._decided is None:
            self._decided = not self.loosened and self.upper is self.lower
        return self._decided

    @property
    def groups(self) -> Groups | None:
        """The planes of a hashed leaf, one group a value; None for all else, and where planes decide alone."""
        return None if self.decided else self._ladder.groups


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
        self._leaves: dict[int, LeafBounds] = {}
        self._joins: dict[tuple[int, bool, bool], Bounds] = {}

    def bounds(self, expression: Expression, trust: bool = False, positive: bool = True) -> Bounds:
        """Find the bounds of an expression.

        Args:
            expression: the expression, which lives as long as this; holds no `PlaneTest`.
            trust: whether to take a hashed leaf under an even number of negations at its planes' word.
            positive: whether `expression` stands under an even number of negations.

        Returns:
            Its bounds. `upper` does not depend on `trust` where `positive` is true.
        """
        match expression:
            case OneOf() | Range():
                leaf = self.leaf(expression)
                trusted = trust and positive and not leaf.loosened and leaf.groups is not None
                return ExactBounds(leaf.upper) if trusted else leaf
            case Not(operand):
                return NegatedBounds(self.bounds(operand, trust, not positive), self._circuit)
            case And() | Or():
                return self._join(expression, trust, positive)
            case Present(field):
                return ExactBounds(has_value(self._circuit, self._layout.fields[field]))
            case PlaneTest():
                raise ValueError("expression: a PlaneTest is made by the compiler, it cannot be compiled")

    def _join(self, expression: And | Or, trust: bool, positive: bool) -> Bounds:
        """Bounds of a join, which is asked for again by the checks of what holds it."""
        key = id(expression), trust, positive  # hashing it would take as long as finding its bounds
        bounds = self._joins.get(key)
        if bounds is None:
            parts = [self.bounds(operand, trust, positive) for operand in expression.operands]
            bounds = self._joins[key] = JoinedBounds(parts, self._circuit, isinstance(expression, And))
        return bounds

    def leaf(self, leaf: Leaf) -> LeafBounds:
        """Find the bounds of a leaf."""
        bounds = self._leaves.get(id(leaf))
        if bounds is None:
            bounds = self._leaves[id(leaf)] = LeafBounds(self._ladders[leaf], self._circuit, self._budget)
        return bounds
