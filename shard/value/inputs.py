"""What a value model takes beside predictions: the fields of candidates, and what a request says.

Letters: B requests, K candidates, G tags.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

import torch
from torch import Tensor

from silverray.shard.api import InvalidRequest, shown
from silverray.shard.schema.columns import Column, Columns
from silverray.shard.schema.days import to_days
from silverray.shard.schema.keys import hash_text
from silverray.shard.schema.schema import Field

NO_TAG = -1
"""Fills the places beyond an item's last tag; hashes of texts are not negative."""


class Values(NamedTuple):
    """The stored values of one field, see `Column`.

    Attributes:
        values: `[B, K]`, `[B, K, G]` for tags, or `[B]` for what belongs to a request; float64 for float, else int64.
        present: bool of the same shape but for G, false where there is no value; None where there always is.
    """

    values: Tensor
    present: Tensor | None = None


def gather_fields(columns: Columns, slots: Tensor, names: Iterable[str]) -> dict[str, Values]:
    """Gather the fields of candidates.

    Args:
        columns: stored values of a shard's items.
        slots: `[B, K]` int64; those below 0 are padding and get the values of slot 0.
        names: the fields, such as a value model's `fields`.

    Returns:
        The values by name; G is the largest number of tags of any candidate, at least 1.

    Cost:
        One gather of B·K values a field.
    """
    flat = slots.clamp(min=0).flatten()
    return {name: _gathered(columns.fields[name].take(flat), slots.shape) for name in names}


def _gathered(column: Column, shape: torch.Size) -> Values:
    present = None if column.present is None else column.present.view(shape)
    if column.offsets is None:
        return Values(column.values.view(shape), present)
    starts, lengths = column.offsets[:-1, None], column.offsets.diff()[:, None]
    place = torch.arange(max(int(lengths.max()) if len(lengths) else 0, 1), device=starts.device)
    padded = column.values.new_full((len(starts), len(place)), NO_TAG)
    padded[place < lengths] = column.values
    return Values(padded.view(*shape, len(place)), present)


def read_requests(
    specs: Mapping[str, Field], requests: Sequence[Mapping[str, Any]], owner: str, names: Iterable[str]
) -> dict[str, Values]:
    """Read what requests say of their users or contexts, as JSON values.

    Args:
        specs: the types, see `Scope`.
        requests: a mapping of name to value per request; null and absence are missing values, other names are ignored.
        owner: "user" or "context".
        names: full names, such as a value model's `inputs`; those of other owners are left out.

    Returns:
        `[B]` values by full name.

    Raises:
        InvalidRequest: a value is of the wrong type, or missing where it may not be; `where` is `OWNER[i].NAME`.
    """
    read = {}
    for full in names:
        prefix, _, name = full.partition(".")
        if prefix == owner:
            read[full] = _column(specs[name], [request.get(name) for request in requests], owner, name)
    return read


def _column(spec: Field, values: Sequence[Any], owner: str, name: str) -> Values:
    numbers, present = [], []
    for row, value in enumerate(values):
        missing = value is None or (spec.type == "float" and isinstance(value, float) and math.isnan(value))
        if missing and not spec.nullable:
            raise InvalidRequest(f"{name}: expected a value, got none", f"{owner}[{row}].{name}")
        number = 0 if missing else _stored(spec, value)
        if number is None:
            raise InvalidRequest(
                f"{name}: expected {_EXPECTED[spec.type]}, got {shown(value)}", f"{owner}[{row}].{name}"
            )
        numbers.append(number)
        present.append(not missing)
    dtype = torch.float64 if spec.type == "float" else torch.int64
    return Values(torch.tensor(numbers, dtype=dtype), torch.tensor(present) if spec.nullable else None)


_EXPECTED = {
    "category": "a string",
    "int": "an integer of 64 bits",
    "float": "a number",
    "bool": "true or false",
    "date": 'a date such as "2001-05-01"',
}


def _stored(spec: Field, value: object) -> int | float | None:
    """The stored form of a value; None where it is of the wrong type."""
    match spec.type, value:
        case "bool", bool(truth):
            return int(truth)
        case _, bool():
            return None
        case "category", str(text):
            return _hash(text)
        case "int", int(number) if -(2**63) <= number < 2**63:
            return number
        case "float", float() | int() as number if abs(number) < 2**1023:
            return float(number)
        case "float", float(number):
            return number
        case "date", str(text):
            return _days(text)
    return None


def _hash(text: str) -> int | None:
    try:
        return hash_text(text)
    except UnicodeEncodeError:
        return None


def _days(text: str) -> int | None:
    try:
        # `fromisoformat` also reads weeks and dates without dashes.
        dashed = len(text) == 10 and text[4] == text[7] == "-"
        return to_days(date.fromisoformat(text)) if dashed else None
    except ValueError:
        return None
