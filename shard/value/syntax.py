"""What a formula says: its syntax tree, and the text that a tree is written as.

A tree is literals, names and calls. Every operator, connective and function is a call of its name, so that the text,
the JSON form and the binder share one list of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import date

from silverray.shard.filter.binder import Value

FUNCTIONS: dict[str, tuple[int, int | None]] = {
    "if": (3, 3),
    "coalesce": (2, None),
    "min": (2, None),
    "max": (2, None),
    "clamp": (3, 3),
    "abs": (1, 1),
    "log": (1, 1),
    "log1p": (1, 1),
    "exp": (1, 1),
    "sqrt": (1, 1),
    "pow": (2, 2),
}
"""Least and most arguments of each function; None: any number."""

COMPARISONS = ("==", "!=", "<", "<=", ">", ">=")
LISTS = ("in", "not in", "any", "all")

ARITIES: dict[str, tuple[int, int | None]] = {
    "or": (2, None),
    "and": (2, None),
    "not": (1, 1),
    **dict.fromkeys(COMPARISONS, (2, 2)),
    "between": (3, 3),
    **dict.fromkeys(LISTS, (2, None)),
    "is null": (1, 1),
    "is not null": (1, 1),
    "+": (2, None),
    "-": (1, None),
    "*": (2, None),
    "/": (2, None),
    **FUNCTIONS,
}
"""Least and most operands of everything that can be called; `-` of one operand is the sign."""

_OR, _AND, _NOT, _CONDITION, _SUM, _PRODUCT, _SIGN, _OPERAND = range(8)
_LEVELS = {
    "or": _OR,
    "and": _AND,
    "not": _NOT,
    "+": _SUM,
    "-": _SUM,
    "*": _PRODUCT,
    "/": _PRODUCT,
    **dict.fromkeys(FUNCTIONS, _OPERAND),
}


@dataclass(frozen=True, slots=True)
class Name:
    """A task's prediction, an item's field, a feature of the user or a part of the request's context, as written."""

    text: str
    position: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Call:
    """An operator or function and its operands; `position` is where the operator or the function's name stands."""

    operator: str
    operands: tuple[Syntax, ...]
    position: int = field(compare=False)


Syntax = Value | Name | Call


def to_text(tree: Syntax) -> str:
    """Write a tree as a formula with as few parentheses as it can be read with.

    Example:
        >>> to_text(Call("*", (Call("+", (Name("click", 0), Value(1, 0)), 0), Name("share", 0)), 0))
        '(click + 1) * share'
    """
    match tree:
        case Name(text):
            return text
        case Value(value):
            return _literal(value)
        case Call(operator, operands) if operator in FUNCTIONS:
            return f"{operator}({', '.join(map(to_text, operands))})"
        case Call("not", (operand,)):
            return f"not {_within(operand, _NOT)}"
        case Call("-", (operand,)):
            return f"-{_within(operand, _SIGN)}"
        case Call(("is null" | "is not null") as operator, (operand,)):
            return f"{_within(operand, _SUM)} {operator}"
        case Call("between", (operand, low, high)):
            return f"{_within(operand, _SUM)} between {_within(low, _SUM)} and {_within(high, _SUM)}"
        case Call(operator, (operand, *values)) if operator in LISTS:
            return f"{_within(operand, _SUM)} {operator} ({', '.join(map(to_text, values))})"
        case Call(operator, operands):
            return f" {operator} ".join(_joined(tree, place) for place in range(len(operands)))


def _joined(parent: Call, place: int) -> str:
    """One operand of a call that is written between its operands."""
    operand, level = parent.operands[place], _level(parent)
    # Sums and products are read from the left, and a chain of one operator as one call.
    leftmost = place == 0 and level in (_SUM, _PRODUCT)
    bare = leftmost and isinstance(operand, Call) and operand.operator != parent.operator
    return _within(operand, level if bare else level + 1)


def _within(operand: Syntax, least: int) -> str:
    text = to_text(operand)
    return text if _level(operand) >= least else f"({text})"


def _level(tree: Syntax) -> int:
    match tree:
        case Call("-", (_,)):
            return _SIGN
        case Call(operator):
            return _LEVELS.get(operator, _CONDITION)
    return _OPERAND


def _literal(value: str | int | float | bool | date) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value, ensure_ascii=False)
        case date():
            return f'date("{value.isoformat()}")'
    return repr(value)
