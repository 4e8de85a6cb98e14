"""One rule for types, for Python's values: a field takes what its type holds without loss.

docs/types.md has the table; `casts` is the same rule for Arrow's columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

from silverray.shard.schema.schema import FieldType

EXPECTED: Mapping[FieldType, str] = {
    "category": "a string",
    "tags": "a list of strings",
    "int": "an integer of at most 64 bits",
    "float": "a number",
    "bool": "true or false",
    "date": 'a date such as "2001-05-31"',
}
"""What messages call the values of a type."""


def accept(value: object, type_: FieldType) -> Any:
    """A value in the one form of its type; None if it is none of the type.

    Args:
        value: not None, which is a missing value.
        type_: of the field.

    Returns:
        A `str`, list of them, `int` of 64 bits, `float` without -0.0, `bool` or `date`.

    Example:
        >>> accept(1, "bool"), accept(3, "float"), accept("2001-05-31", "date"), accept(2.0, "int")
        (True, 3.0, datetime.date(2001, 5, 31), None)
    """
    match type_:
        case "category":
            return value if utf8_bytes(value) >= 0 else None
        case "tags":
            return value if isinstance(value, list) and misplaced_tag(value) is None else None
        case "int":
            return _integer(value)
        case "float":
            return _float(value)
        case "bool":
            return bool(value) if type(value) in (bool, int) and value in (0, 1) else None
        case "date":
            return _date(value)


def utf8_bytes(value: object) -> int:
    """Length of a text in UTF-8; -1 for what has none."""
    try:
        return len(value.encode()) if isinstance(value, str) else -1
    except UnicodeEncodeError:  # half a surrogate pair
        return -1


def misplaced_tag(tags: list[Any]) -> int | None:
    """The first place of a list that holds no text; None if there is none."""
    return next((place for place, tag in enumerate(tags) if utf8_bytes(tag) < 0), None)


def same_float(number: int | Decimal) -> float | None:
    """The float64 that equals a number, or is written with the same digits, such as 0.1; None if there is none.

    JavaScript writes the float64 nearest to 2^60 as 1152921504606847000, which no float64 equals.
    """
    try:
        nearest = float(number)
    except (OverflowError, ValueError):  # too large, or a NaN that raises
        return None
    return nearest if nearest == number or Decimal(repr(nearest)) == number else None


def _integer(value: object) -> int | None:
    if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        value = int(value)
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def _float(value: object) -> float | None:
    if type(value) is int or isinstance(value, Decimal):
        value = same_float(value)
    return value + 0.0 if type(value) is float else None


def _date(value: object) -> date | None:
    if isinstance(value, datetime):
        moment = value.astimezone(UTC) if value.tzinfo else value
        return moment.date() if moment.time() == time() else None
    if not isinstance(value, str):
        return value if type(value) is date else None
    try:
        # `fromisoformat` also reads weeks and dates without dashes.
        return date.fromisoformat(value) if len(value) == 10 and value[4] == value[7] == "-" else None
    except ValueError:
        return None
