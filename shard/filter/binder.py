"""Binds predicates to a schema: checks types and turns operators into expressions over stored values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Literal

from silverray.shard.api import FilterError
from silverray.shard.filter.bound_field import BoundField
from silverray.shard.filter.expression import INT_MAX, INT_MIN, And, Expression, Not, OneOf, Or, Present, Range
from silverray.shard.filter.hints import mismatch_hint
from silverray.shard.filter.lexer import Content, Token
from silverray.shard.hints import closest
from silverray.shard.schema.days import to_days
from silverray.shard.schema.keys import hash_text
from silverray.shard.schema.schema import FieldType, Schema

Comparison = Literal["<", "<=", ">", ">="]
Stored = set[int] | set[float]
"""Values as they are stored."""

_LITERALS: dict[FieldType, str] = {
    "category": "a string",
    "tags": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "date": 'date("YYYY-MM-DD")',
}


@dataclass(frozen=True, slots=True)
class Value:
    """A literal: a str, an int, a float, a bool or a date, and where it stands."""

    value: str | int | float | bool | date
    position: int = field(compare=False)


def resolve(schema: Schema, token: Token) -> BoundField:
    """Find the field that a name means; raises FilterError where it is unknown or not for filters."""
    field = schema.fields.get(token.text)
    if field is not None and field.filter:
        return BoundField(token.text, field, token.position)
    if field is not None:
        message = f"{token.text} cannot be used in filters: its schema says `filter: false`"
        raise FilterError(message, token.position, list(schema.filterable))
    if token.text == schema.id:
        message = f"unknown field {token.text}: it is the id column, and the id cannot be filtered"
        copy = "publish a copy of it as a field of another name, and filter by that"
        raise FilterError(message, token.position, list(schema.filterable), copy)
    names = {name.lower(): name for name in schema.filterable}
    close = closest(token.text.lower(), names)
    hint = f"did you mean {names[close]}?" if close else None
    raise FilterError(f"unknown field {token.text}", token.position, list(schema.filterable), hint)


def stored(field: BoundField, values: Iterable[Value]) -> Stored:
    """The stored forms of literals; raises FilterError where one is not of the field's type."""
    return {_stored(field, value) for value in values}


def stored_alike(field: BoundField, contents: Sequence[Content]) -> Stored | None:
    """The stored forms of strings or numbers that are all written in the usual way for the field, else None."""
    kinds = set(map(type, contents))
    match field.spec.type:
        case "category" | "tags" if kinds == {str}:
            return set(map(hash_text, contents))  # type: ignore[arg-type]  # all are texts
        case "int" if kinds == {int}:
            return {number for number in contents if isinstance(number, int)}
        case "float" if kinds <= {int, float}:
            return {float(number) + 0.0 for number in contents}  # as in `_stored`
    return None


def one_of(field: BoundField, values: Stored, negated: bool = False) -> Expression:
    """The field's value, or for tags any of them, is one of `values`; `negated`: there is a value and it is not."""
    expression = OneOf(field.name, tuple(sorted(values)))
    if not negated:
        return expression
    return And((Present(field.name), Not(expression))) if field.spec.nullable else Not(expression)


def contains_all(field: BoundField, values: Stored) -> Expression:
    """The tags hold every one of `values`."""
    leaves = tuple(OneOf(field.name, (term,)) for term in sorted(values))
    return leaves[0] if len(leaves) == 1 else And(leaves)


def compares(field: BoundField, operator: Comparison, value: Value) -> Expression:
    """The field's value compares so with `value`."""
    low, high = _closed(field, operator, value)
    return _range(field, low, high)


def between(field: BoundField, low: Value, high: Value) -> Expression:
    """The field's value is between two others, both included."""
    return _range(field, _closed(field, ">=", low)[0], _closed(field, "<=", high)[1])


def is_null(field: BoundField, negated: bool) -> Expression:
    """The field has no value; `negated`: it has one."""
    if not field.spec.nullable:
        return And(()) if negated else Or(())
    return Present(field.name) if negated else Not(Present(field.name))


def is_true(field: BoundField) -> Expression:
    """The bool field that stands alone is true."""
    if field.spec.type != "bool":
        message = f"{field.name} is {field.spec.type}: only a bool field can stand alone"
        raise FilterError(message, field.position, field.operators)
    return OneOf(field.name, (1,))


def parse_date(token: Token) -> date:
    """Read the YYYY-MM-DD of a date literal."""
    text = str(token.value)
    year, month, day = text[:4], text[5:7], text[8:]
    if text == f"{year}-{month}-{day}" and all(part.isascii() and part.isdigit() for part in (year, month, day)):
        try:
            return date(int(year), int(month), int(day))
        except ValueError as error:
            raise FilterError(f"{token.text} is no date: {error}", token.position, ["YYYY-MM-DD"]) from None
    raise FilterError(f"{token.text} is no date", token.position, ["YYYY-MM-DD"])


def _stored(field: BoundField, value: Value) -> int | float:
    """The stored form of a literal that a value is compared with for equality."""
    match field.spec.type, value.value:
        case (("category" | "tags"), str(text)):
            return hash_text(text)
        case "bool", bool(flag):
            return int(flag)
        case "date", date() as day:
            return to_days(day)
        case "int", bool():
            pass
        case "int", int(number):
            return number
        case "int", float(number):
            if number.is_integer() and INT_MIN <= number <= INT_MAX:
                return int(number)
            problem = "does not fit in 64 bits" if number.is_integer() else "is not a whole number"
            raise FilterError(f"{field.name} is int: {number} {problem}", value.position, ["an integer"])
        case "float", bool():
            pass
        case "float", int() | float() as number:
            return float(number) + 0.0  # makes -0.0 the 0.0 that is stored
    raise _mismatch(field, value)


def _closed(field: BoundField, operator: Comparison, value: Value) -> tuple[int | float | None, int | float | None]:
    """The closed range of stored values that compare so with a literal."""
    number = value.value
    if field.spec.type == "int" and isinstance(number, float):
        bound: int | float = {"<": math.ceil, "<=": math.floor, ">": math.floor, ">=": math.ceil}[operator](number)
    else:
        bound = _stored(field, value)
    step: int | float = bound
    if operator == "<":
        step = math.nextafter(bound, -math.inf) if field.spec.type == "float" else int(bound) - 1
    elif operator == ">":
        step = math.nextafter(bound, math.inf) if field.spec.type == "float" else int(bound) + 1
    return (None, step) if operator[0] == "<" else (step, None)


def _range(field: BoundField, low: int | float | None, high: int | float | None) -> Expression:
    if field.spec.type != "float":
        # A float literal can lie beyond every int64; so can the neighbour of the first and the last.
        low = None if low is not None and low <= INT_MIN else low
        high = None if high is not None and high >= INT_MAX else high
        if (low is not None and low > INT_MAX) or (high is not None and high < INT_MIN):
            return OneOf(field.name, ())
    if low is not None and high is not None and low > high:
        return OneOf(field.name, ())
    return Range(field.name, low, high)


def _mismatch(field: BoundField, value: Value) -> FilterError:
    got = {str: "a string", bool: "true or false", int: "an integer", float: "a number", date: "a date"}
    wanted = _LITERALS[field.spec.type]
    message = f"{field.name} is {field.spec.type}: expected {wanted}, got {got[type(value.value)]}"
    return FilterError(message, value.position, [wanted], mismatch_hint(field, value.value))
