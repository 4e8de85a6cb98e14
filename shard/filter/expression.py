"""Filter expressions, bound to a schema.

Parsing and binding reduce every operator of the language to three leaves and three connectives over *stored*
values: int64 for int, date (days since 1970-01-01), bool (0/1) and for category and tags (the 64-bit hash of the
UTF-8 text); float64 for float. A leaf is false where the value is missing, so `!=` becomes
`And(Present, Not(OneOf))` and a filter has plain two-valued logic.
"""

from __future__ import annotations

from dataclasses import dataclass

INT_MIN, INT_MAX = -(2**63), 2**63 - 1
"""The least and the largest stored integer; a literal may lie beyond them."""


@dataclass(frozen=True, slots=True)
class Present:
    """True where the field has a value."""

    field: str


@dataclass(slots=True, unsafe_hash=True)  # not frozen, which takes thrice the time; nobody changes one
class OneOf:
    """True where the value, or for tags any of the values, is in `values` (sorted, unique, maybe empty)."""

    field: str
    values: tuple[int, ...] | tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """True where `low <= value <= high`; both ends are included and None is unbounded."""

    field: str
    low: int | float | None
    high: int | float | None


@dataclass(frozen=True, slots=True)
class And:
    """True where every operand is; an empty one is true."""

    operands: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """True where any operand is; an empty one is false."""

    operands: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Plain negation."""

    operand: Expression


@dataclass(frozen=True, slots=True)
class PlaneTest:
    """True where every plane of any group is set: a hashed term that is taken at its planes' word (`bloom` mode)."""

    groups: tuple[tuple[int, ...], ...]


Expression = Present | OneOf | Range | And | Or | Not | PlaneTest
