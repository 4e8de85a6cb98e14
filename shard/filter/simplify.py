"""Joins terms of one field: fewer leaves make a shorter program, and less to verify."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from silverray.shard.filter.expression import And, Expression, Not, OneOf, Or, Range
from silverray.shard.schema.schema import Schema


def simplified(expression: Expression, schema: Schema) -> Expression:
    """Write an expression with fewer terms.

    Fields of tags stay as they are: an item holds many, so that what follows is not true of them.

    Args:
        expression: the expression.
        schema: the fields that it names.

    Returns:
        One that is true of the same items: `a = 1 or a = 2` becomes a list, `a > 1 and a < 5` a range, and what
        stands in parentheses without need stands there no more.
    """
    match expression:
        case Not(operand):
            return Not(simplified(operand, schema))
        case And(operands):
            parts = _flat(And, operands, schema)
            return parts[0] if len(parts := _joined("and", parts, schema)) == 1 else And(tuple(parts))
        case Or(operands):
            parts = _flat(Or, operands, schema)
            return parts[0] if len(parts := _joined("or", parts, schema)) == 1 else Or(tuple(parts))
    return expression


def _flat(kind: type[And] | type[Or], operands: Iterable[Expression], schema: Schema) -> list[Expression]:
    parts: list[Expression] = []
    for operand in operands:
        part = operand if isinstance(operand, OneOf | Range) else simplified(operand, schema)
        if isinstance(part, kind):
            parts += part.operands
        else:
            parts.append(part)
    return parts


def _joined(word: Literal["and", "or"], operands: list[Expression], schema: Schema) -> list[Expression]:
    """Each group of terms that can be joined stands where its first did."""
    groups: dict[tuple[str, str], list[Expression]] = {}
    places: list[Expression | tuple[str, str]] = []
    for operand in operands:
        match operand:
            case Range(field):
                key = "range", field
            case OneOf(field) if word == "or":
                key = "list", field
            case Not(OneOf(field)) if word == "and":
                key = "not list", field
            case _:
                places.append(operand)
                continue
        if schema.fields[key[1]].type == "tags":
            places.append(operand)
            continue
        if key not in groups:
            places.append(key)
        groups.setdefault(key, []).append(operand)
    joined: list[Expression] = []
    for place in places:
        if not isinstance(place, tuple):
            joined.append(place)
        elif len(terms := groups[place]) == 1:
            joined += terms
        elif place[0] == "range":
            ranges = [term for term in terms if isinstance(term, Range)]
            joined += [_common(ranges)] if word == "and" else _united(ranges)
        else:
            lists = [term.operand if isinstance(term, Not) else term for term in terms]
            values = {value for term in lists if isinstance(term, OneOf) for value in term.values}
            union = OneOf(place[1], tuple(sorted(values)))
            joined.append(Not(union) if word == "and" else union)
    return joined


def _common(ranges: list[Range]) -> Expression:
    low = max((range_.low for range_ in ranges if range_.low is not None), default=None)
    high = min((range_.high for range_ in ranges if range_.high is not None), default=None)
    if low is not None and high is not None and low > high:
        return OneOf(ranges[0].field, ())
    return Range(ranges[0].field, low, high)


def _united(ranges: list[Range]) -> list[Expression]:
    ascending = sorted(ranges, key=lambda range_: -math.inf if range_.low is None else range_.low)
    united = ascending[:1]
    for range_ in ascending[1:]:
        last = united[-1]
        if last.high is not None and range_.low is not None and range_.low > last.high:
            united.append(range_)
        elif last.high is not None and (range_.high is None or range_.high > last.high):
            united[-1] = Range(last.field, last.low, range_.high)
    return list(united)
