"""Binds a formula to a scope: looks names up, checks types and builds the graph.

A condition on a field that has no value is false, as in filters; a number, text or date that may be missing can only be
compared, asked `is null`, or replaced by `coalesce`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import reduce
from typing import Literal, cast

import torch

from silverray.shard.api import FormulaError
from silverray.shard.filter import binder as filters
from silverray.shard.filter.binder import Comparison, Value
from silverray.shard.filter.bound_field import BoundField
from silverray.shard.filter.expression import And, Expression, Not, OneOf, Or, Present, Range
from silverray.shard.schema.days import to_days
from silverray.shard.schema.keys import hash_text
from silverray.shard.schema.schema import Field
from silverray.shard.value.graph import Extent, Graph, Node
from silverray.shard.value.language import formula_errors
from silverray.shard.value.operations import LARGEST
from silverray.shard.value.scope import Scope, Source
from silverray.shard.value.syntax import COMPARISONS, Call, Name, Syntax, to_text

Type = Literal["number", "condition", "text", "date", "tags"]

_TYPES: dict[str, Type] = {
    "category": "text",
    "tags": "tags",
    "int": "number",
    "float": "number",
    "bool": "condition",
    "date": "date",
}
_ARTICLES = {"number": "a number", "condition": "a condition", "text": "a text", "date": "a date", "tags": "tags"}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_SHOWN = 40
"""Characters of an operand that a message shows, so that the message and two of them fit a line or two."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A part of a formula, bound.

    Attributes:
        type: what it is.
        node: its value: float32 for numbers, truth values for conditions, stored values otherwise.
        present: whether there is a value.
        tree: what it was bound from.
        field: the field that it is; None where it is computed, a literal or a prediction.
    """

    type: Type
    node: Node
    present: Node
    tree: Syntax
    field: BoundField | None = None

    @property
    def position(self) -> int:
        """Where it starts, or where its outermost operator stands."""
        return self.tree.position

    def __str__(self) -> str:
        text = to_text(self.tree)
        return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def bind(tree: Syntax, scope: Scope) -> Node:
    """Bind a formula.

    Args:
        tree: the formula.
        scope: what its names mean.

    Returns:
        The score as a float32 node.

    Raises:
        FormulaError: a name is unknown, or types do not fit.
    """
    with formula_errors():
        return _Binder(scope).score(tree)


class _Binder:
    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._graph = Graph()

    def score(self, tree: Syntax) -> Node:
        return self._number(tree)

    def _bind(self, tree: Syntax) -> Bound:
        match tree:
            case Value():
                return self._literal(tree)
            case Name():
                return self._name(tree, self._scope.resolve(tree))
            case Call(operator, (left, right)) if operator in COMPARISONS:
                return self._condition_of(tree, self._comparison(operator, left, right, tree.position))
            case Call("between", operands):
                return self._condition_of(tree, self._between(operands, tree.position))
            case Call(("in" | "not in" | "any" | "all") as operator, (operand, *values)):
                node = self._membership(operator, operand, cast(list[Value], values), tree.position)
                return self._condition_of(tree, node)
            case Call(("is null" | "is not null") as operator, (operand,)):
                return self._condition_of(tree, self._nullness(operator, operand, tree.position))
            case Call(("and" | "or") as operator, operands):
                nodes = [self._condition(operand) for operand in operands]
                return self._condition_of(tree, self._graph.all(nodes) if operator == "and" else self._graph.any(nodes))
            case Call("not", (operand,)):
                return self._condition_of(tree, self._graph.negate(self._condition(operand)))
            case Call("if", operands):
                return self._if(tree, operands)
            case Call("coalesce", operands):
                return self._coalesce(tree, operands)
            case Call("-", (left, right)):
                return self._difference(tree, left, right)
        return Bound("number", self._arithmetic(tree), self._graph.true, tree)

    def _condition_of(self, tree: Syntax, node: Node) -> Bound:
        return Bound("condition", node, self._graph.true, tree)

    # Names and literals

    def _literal(self, value: Value) -> Bound:
        graph = self._graph
        match value.value:
            case bool(truth):
                return self._condition_of(value, graph.true if truth else graph.false)
            case str(text):
                return Bound("text", graph.constant(hash_text(text), torch.int64), graph.true, value)
            case date() as day:
                return Bound("date", graph.constant(to_days(day), torch.int64), graph.true, value)
            case int() | float() as number if abs(number) <= LARGEST:
                return Bound("number", graph.constant(number), graph.true, value)
        raise FormulaError(f"{value.value} is beyond float32, whose largest number is 3.4e38", value.position)

    def _name(self, name: Name, source: Source) -> Bound:
        graph = self._graph
        if source.spec is None:
            node = graph.prediction(self._scope.tasks.index(source.name))
            return Bound("number", node, graph.true, name)
        extent = Extent.ITEM if source.owner == "item" else Extent.REQUEST
        values = graph.values(source.key, _stored_dtype(source.spec), extent)
        present = graph.present(source.key, extent) if source.spec.nullable else graph.true
        field = BoundField(name.text, source.spec, name.position)
        type_ = _TYPES[source.spec.type]
        node = values
        if type_ == "number":
            node = graph.number(values)
        elif type_ == "condition":
            node = graph.all([present, graph.apply("==", values, graph.constant(1, torch.int64))])
        return Bound(type_, node, present, name, field)

    # Conditions

    def _condition(self, tree: Syntax) -> Node:
        bound = self._bind(tree)
        if bound.type != "condition":
            hint = f"write {bound} != 0" if bound.type == "number" else None
            raise FormulaError(f"expected a condition, got {bound}, {_kind(bound)}", bound.position, hint=hint)
        return bound.node

    def _comparison(self, operator: str, left: Syntax, right: Syntax, position: int) -> Node:
        if isinstance(left, Value) and not isinstance(right, Value):
            left, right, operator = right, left, _MIRRORED.get(operator, operator)
        bound = self._bind(left)
        if bound.field is not None and isinstance(right, Value):
            return self._field_with_literal(operator, bound.field, bound, right, position)
        return self._compared(operator, bound, self._bind(right), position)

    def _field_with_literal(self, operator: str, field: BoundField, bound: Bound, value: Value, position: int) -> Node:
        """As in filters: on stored values, so that a large int64 or a float64 is not rounded."""
        field.require("=" if operator == "==" else operator, position)
        if operator in ("==", "!="):
            return self._lowered(filters.one_of(field, filters.stored(field, [value]), operator == "!="), bound)
        return self._lowered(filters.compares(field, cast(Comparison, operator), value), bound)

    def _compared(self, operator: str, a: Bound, b: Bound, position: int) -> Node:
        if a.type != b.type:
            message = f"cannot compare {a}, {_kind(a)}, with {b}, {_kind(b)}"
            raise FormulaError(message, position)
        if a.type == "tags" or (a.type in ("text", "condition") and operator not in ("==", "!=")):
            hint = "use `any` or `all` with a list" if a.type == "tags" else "use `==` or `!=`"
            raise FormulaError(f"`{operator}` does not apply to {_ARTICLES[a.type]}", position, hint=hint)
        x, y = a.node, b.node
        if a.type == "number" and a.field is not None and b.field is not None:
            x, y = self._stored(a.field, a), self._stored(b.field, b)
        return self._graph.all([a.present, b.present, self._graph.apply(operator, x, y)])

    def _between(self, operands: Sequence[Syntax], position: int) -> Node:
        low = self._comparison(">=", operands[0], operands[1], position)
        return self._graph.all([low, self._comparison("<=", operands[0], operands[2], position)])

    def _membership(self, operator: str, operand: Syntax, values: Sequence[Value], position: int) -> Node:
        bound = self._bind(operand)
        if bound.field is not None:
            bound.field.require(operator, position)
            stored = filters.stored(bound.field, values)
            if operator == "all":
                return self._lowered(filters.contains_all(bound.field, stored), bound)
            return self._lowered(filters.one_of(bound.field, stored, negated=operator == "not in"), bound)
        if operator in ("any", "all"):
            raise FormulaError(f"`{operator}` applies to tags of items only, got {bound}", position)
        found = self._graph.any([self._compared("==", bound, self._literal(value), value.position) for value in values])
        return found if operator == "in" else self._graph.all([bound.present, self._graph.negate(found)])

    def _nullness(self, operator: str, operand: Syntax, position: int) -> Node:
        bound = self._bind(operand)
        if bound.field is None:
            raise FormulaError(f"`{operator}` applies to fields, got {bound}", position)
        return bound.present if operator == "is not null" else self._graph.negate(bound.present)

    def _lowered(self, expression: Expression, bound: Bound) -> Node:
        """A filter's expression about one field."""
        graph = self._graph
        assert bound.field is not None
        values = self._stored(bound.field, bound)
        match expression:
            case Present():
                return bound.present
            case OneOf(_, wanted):
                return graph.all([bound.present, graph.member(values, wanted, bound.type == "tags")])
            case Range(_, low, high):
                ends = [(">=", low), ("<=", high)]
                tests = [
                    graph.apply(operator, values, graph.constant(end, values.dtype))
                    for operator, end in ends
                    if end is not None
                ]
                return graph.all([bound.present, *tests])
            case Not(inner):
                return graph.negate(self._lowered(inner, bound))
            case And(parts):
                return graph.all([self._lowered(part, bound) for part in parts])
            case Or(parts):
                return graph.any([self._lowered(part, bound) for part in parts])
        raise AssertionError(f"{expression} is no expression of one field")

    def _stored(self, field: BoundField, bound: Bound) -> Node:
        assert isinstance(bound.tree, Name)
        source = self._scope.resolve(bound.tree)
        extent = Extent.ITEM if source.owner == "item" else Extent.REQUEST
        return self._graph.values(source.key, _stored_dtype(field.spec), extent)

    # Values

    def _if(self, tree: Syntax, operands: Sequence[Syntax]) -> Bound:
        condition = self._condition(operands[0])
        branches = [self._bind(operand) for operand in operands[1:]]
        if all(branch.type == "condition" for branch in branches):
            nodes = [branch.node for branch in branches]
            return self._condition_of(tree, self._graph.select(condition, *nodes))
        x, y = (self._as_number(branch) for branch in branches)
        return Bound("number", self._graph.select(condition, x, y), self._graph.true, tree)

    def _coalesce(self, tree: Syntax, operands: Sequence[Syntax]) -> Bound:
        bounds = [self._bind(operand) for operand in operands]
        for bound in bounds:
            if bound.type == "tags" or bound.type != bounds[0].type:
                wanted = _ARTICLES[bounds[0].type]
                raise FormulaError(f"coalesce: expected {wanted}, got {bound}, {_kind(bound)}", bound.position)
        *others, last = bounds
        node, present = last.node, last.present
        for bound in reversed(others):
            node = self._graph.select(bound.present, bound.node, node)
            present = self._graph.any([bound.present, present])
        return Bound(last.type, node, present, tree)

    def _difference(self, tree: Syntax, left: Syntax, right: Syntax) -> Bound:
        """A difference of two numbers or two dates, which is days."""
        a, b = self._bind(left), self._bind(right)
        if (a.type, b.type) == ("date", "date"):
            days = self._graph.apply("days", self._required(a).node, self._required(b).node)
            return Bound("number", self._graph.number(days), self._graph.true, tree)
        node = self._graph.apply("-", self._as_number(a), self._as_number(b))
        return Bound("number", node, self._graph.true, tree)

    def _arithmetic(self, tree: Syntax) -> Node:
        graph = self._graph
        assert isinstance(tree, Call)
        match tree.operator, tree.operands:
            case "-", (operand,):
                return graph.apply("negate", self._number(operand))
            case "clamp", (operand, low, high):
                return graph.least(graph.greatest(self._number(operand), self._number(low)), self._number(high))
            case "pow", (base, exponent):
                return graph.apply("pow", self._number(base), self._number(exponent))
            case ("abs" | "exp" | "log" | "log1p" | "sqrt") as name, (operand,):
                return graph.function(name, self._number(operand))
        chains: dict[str, Callable[[Node, Node], Node]] = {
            "+": graph.add,
            "-": lambda x, y: graph.apply("-", x, y),
            "*": graph.multiply,
            "/": graph.divide,
            "min": graph.least,
            "max": graph.greatest,
        }
        join = chains[tree.operator]
        # One operand after the other, so that few values are alive at a time.
        first, *others = tree.operands
        return reduce(lambda x, operand: join(x, self._number(operand)), others, self._number(first))

    def _number(self, tree: Syntax) -> Node:
        return self._as_number(self._bind(tree))

    def _as_number(self, bound: Bound) -> Node:
        if bound.type == "condition":
            return self._graph.number(bound.node)
        if bound.type != "number":
            hint = "use `==` or `in` to make it a condition" if bound.type == "text" else None
            raise FormulaError(f"expected a number, got {bound}, {_kind(bound)}", bound.position, hint=hint)
        return self._required(bound).node

    def _required(self, bound: Bound) -> Bound:
        if bound.present is not self._graph.true:
            default = 'date("2000-01-01")' if bound.type == "date" else "0"
            hint = f"write coalesce({bound}, {default})"
            raise FormulaError(f"{bound} may be missing", bound.position, hint=hint)
        return bound


def _stored_dtype(spec: Field) -> torch.dtype:
    return torch.float64 if spec.type == "float" else torch.int64


def _kind(bound: Bound) -> str:
    return f"{_ARTICLES[bound.type]} ({bound.field.spec.type})" if bound.field else _ARTICLES[bound.type]
