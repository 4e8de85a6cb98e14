"""What the planes of a field must be when they are read from a file."""

from __future__ import annotations

from itertools import pairwise

from silverray.shard.filter.planes import (
    MAX_BLOCKS,
    MOST_ROWS,
    BooleanPlanes,
    ExactPlanes,
    HashedPlanes,
    Planes,
    SlicedPlanes,
)
from silverray.shard.schema.schema import FieldType

_INT64 = range(-(2**63), 2**63)


def planes_fault(planes: Planes, first: int, kind: FieldType) -> str | None:
    """What is wrong with the planes of a field of some type that begin with plane `first`, if anything is."""
    if not _is_whole(planes.first, range(first, first + 1)):
        return f"first: expected {first}"
    match planes:
        case HashedPlanes() if kind in ("category", "tags"):
            return _hashed_fault(planes)
        case ExactPlanes() if kind in ("category", "tags"):
            return _exact_fault(planes)
        case SlicedPlanes() if kind in ("int", "date", "float"):
            return _sliced_fault(planes, kind == "float")
        case BooleanPlanes() if kind == "bool":
            return None
    return f"kind: {planes.kind!r} is none of a field of type {kind}"


def _hashed_fault(planes: HashedPlanes) -> str | None:
    if not _is_whole(planes.blocks, range(1, MAX_BLOCKS + 1)):
        return f"blocks: expected 1 to {MAX_BLOCKS}"
    if not _is_whole(planes.size, range(1, MOST_ROWS + 1)):
        return f"size: expected 1 to {MOST_ROWS}"
    if not _is_whole(planes.salt, range(2**63)):
        return "salt: expected 0 to 2^63 - 1"
    if type(planes.fpr) not in (int, float) or not 0 <= planes.fpr <= 1:
        return "fpr: expected a number from 0 to 1"
    return None


def _exact_fault(planes: ExactPlanes) -> str | None:
    values = planes.values
    if not all(_is_whole(value, _INT64) for value in values) or not all(low < high for low, high in pairwise(values)):
        return "values: expected ascending integers of 64 bits"
    after = planes.first + len(values)
    if not _is_whole(planes.other.first, range(after, after + 1)):
        return f"other.first: expected {after}"
    fault = _hashed_fault(planes.other)
    return fault and f"other.{fault}"


def _sliced_fault(planes: SlicedPlanes, floating: bool) -> str | None:
    if planes.floating is not floating:
        return f"floating: expected {str(floating).lower()}"
    if not _is_whole(planes.shift, range(64)):
        return "shift: expected 0 to 63"
    if not _is_whole(planes.base, _INT64):
        return "base: expected an integer of 64 bits"
    if not _is_whole(planes.top, range(2**64)) or planes.base + planes.top not in _INT64:
        return "top: expected a code of 64 bits"
    return None


def _is_whole(number: object, within: range) -> bool:
    return type(number) is int and number in within
