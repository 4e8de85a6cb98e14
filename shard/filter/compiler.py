"""From a filter to what a search runs: a plane program and what is left to verify on stored values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silverray.kernels.programs import MAX_INSTRUCTIONS, MAX_STACK, Opcode, instruction
from silverray.shard.api import FilterError, Mode
from silverray.shard.filter.bounds import Bounder
from silverray.shard.filter.circuit import Circuit, Node, emit
from silverray.shard.filter.deadline import NEVER, Deadline
from silverray.shard.filter.expression import And, Expression, Not, OneOf, Or, PlaneTest, Range
from silverray.shard.filter.ladder import Ladder
from silverray.shard.filter.language import parse
from silverray.shard.filter.layout import LIVE, PlaneLayout
from silverray.shard.filter.leaves import LEAF_BUDGETS, Leaf, Leaves
from silverray.shard.filter.simplify import simplified
from silverray.shard.schema.schema import Schema

MAX_LEAVES_SIZE = 2 * MAX_INSTRUCTIONS
"""Instructions of all leaves above which a budget is given up: joined, leaves lose some of theirs, rarely half."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How to find the items that pass.

    Attributes:
        program: `[L]` int32 instructions (see `silverray.kernels.programs`). A live item that passes has its bit
            set; so may others, but no item that is not live.
        check: what to verify for the items whose bit is set; None where the bits are the answer.
    """

    program: NDArray[np.int32]
    check: Expression | None


@dataclass(frozen=True, slots=True, eq=False)
class CompiledFilter:
    """A filter, compiled for one snapshot's schema and layout. It can be pickled.

    Attributes:
        text: the filter as it was written; None where there is none.
        expression: its meaning; None where every item passes.
        exact: the plan of mode "exact".
        bloom: the plan of mode "bloom": hashed terms under an even number of negations are not verified.
    """

    text: str | None
    expression: Expression | None
    exact: Plan
    bloom: Plan

    def plan(self, mode: Mode) -> Plan:
        """The plan of a mode."""
        return self.exact if mode == "exact" else self.bloom


def compile_filter(
    filter: str | Expression | None, schema: Schema, layout: PlaneLayout, deadline: Deadline = NEVER
) -> CompiledFilter:
    """Compile a filter.

    Args:
        filter: its text, or a parsed expression; None lets every item pass.
        schema: what the text may name.
        layout: the snapshot's planes.
        deadline: when to give up; looked at again and again.

    Returns:
        The plans of both modes, which share one program.

    Raises:
        FilterError: the text is wrong, or no program of at most `MAX_INSTRUCTIONS` bounds the filter.
        DeadlineExceeded: the deadline came first.
    """
    text = filter if isinstance(filter, str) else None
    expression = parse(filter, schema, deadline) if isinstance(filter, str) else filter
    if expression is None:
        plan = Plan(_program(Circuit().plane(LIVE)), None)
        return CompiledFilter(text, None, plan, plan)
    expression = simplified(expression, schema)
    deadline.check()
    bounder, root, whole = _fit(expression, layout, deadline)
    program = _program(root)
    exact = Plan(program, _check(expression, bounder, trust=False, whole=whole))
    bloom = exact
    if exact.check is not None:
        bloom = Plan(program, _check(expression, bounder, trust=True, whole=whole))
    return CompiledFilter(text, expression, exact, bloom)


def _fit(expression: Expression, layout: PlaneLayout, deadline: Deadline) -> tuple[Bounder, Node, bool]:
    """Find the largest budget whose program is short enough.

    Returns:
        The bounder of that budget, the program's function, and whether the stack has made it looser than the bound.

    Raises:
        FilterError: there is none.
    """
    circuit = Circuit(deadline)
    found: list[tuple[Leaf, bool]] = []
    _find(expression, True, found)
    leaves = Leaves(layout, circuit, (leaf for leaf, _ in found))
    wanted = list({(id(ladder := leaves[leaf]), positive): (ladder, positive) for leaf, positive in found}.values())
    longest, size = MAX_INSTRUCTIONS + 1, 0
    for budget in LEAF_BUDGETS:
        if budget >= longest:
            continue  # no leaf is longer: the program would be the same once more
        if budget > LEAF_BUDGETS[-1] and _too_long(wanted, budget, deadline):
            continue
        bounder = Bounder(layout, circuit, leaves, budget)
        upper = bounder.bounds(expression).upper
        fitted = circuit.fit(upper, MAX_STACK)
        root = circuit.all([fitted, circuit.plane(LIVE)])
        if root.size <= MAX_INSTRUCTIONS:
            return bounder, root, fitted is not upper
        size = root.size
        bounds = ((bounder.leaf(leaf), positive) for leaf, positive in found)
        longest = max(leaf.upper.size if positive else leaf.lower.size for leaf, positive in bounds)
    raise FilterError(
        f"the filter needs {size:,} instructions, the limit is {MAX_INSTRUCTIONS:,}",
        position=0,
        hint="use fewer terms; `in (...)` and `any (...)` take a whole list as one",
    )


def _find(expression: Expression, positive: bool, found: list[tuple[Leaf, bool]]) -> None:
    """List the leaves, each with whether it stands under an even number of negations."""
    match expression:
        case OneOf() | Range():
            found.append((expression, positive))
        case Not(operand):
            _find(operand, not positive, found)
        case And(operands) | Or(operands):
            for operand in operands:
                _find(operand, positive, found)


def _too_long(wanted: Sequence[tuple[Ladder, bool]], budget: int, deadline: Deadline) -> bool:
    """Whether the leaves alone show that a program is too long; looks at no more of them than that takes."""
    deadline.check()
    size = 0
    for ladder, positive in wanted:
        # A lower bound goes with the first of the upper ones; it is not made to know its size.
        size += ladder.least(budget) if positive or ladder.top.least <= budget else 1
        if size > MAX_LEAVES_SIZE:
            return True
    return False


def _program(root: Node) -> NDArray[np.int32]:
    if root.kind == "false":
        codes = [instruction(Opcode.LOAD, LIVE), instruction(Opcode.ANDNOT, LIVE)]
    else:
        assert root.depth <= MAX_STACK
        codes = emit(root)
    return np.array(codes, dtype=np.int32)


def _check(expression: Expression, bounder: Bounder, trust: bool, whole: bool) -> Expression | None:
    """What a set bit leaves open; `whole` says that the program is looser than the upper bound."""
    if not whole:
        bounds = bounder.bounds(expression, trust)
        if bounds.decided:
            return None
        if isinstance(expression, And):
            # The program implies every operand's upper bound, so those that planes decide are settled.
            checks = [_check(operand, bounder, trust, whole) for operand in expression.operands]
            open_ = tuple(check for check in checks if check is not None)
            return open_[0] if len(open_) == 1 else And(open_)
    return _trusting(expression, bounder, positive=True) if trust else expression


def _trusting(expression: Expression, bounder: Bounder, positive: bool) -> Expression:
    """Replace hashed terms under an even number of negations by tests of their planes."""
    bounder.deadline.check()
    match expression:
        case OneOf() if positive and (groups := bounder.leaf(expression).groups) is not None:
            return PlaneTest(groups)
        case Not(operand):
            return Not(_trusting(operand, bounder, not positive))
        case And(operands):
            return And(tuple(_trusting(operand, bounder, positive) for operand in operands))
        case Or(operands):
            return Or(tuple(_trusting(operand, bounder, positive) for operand in operands))
    return expression
