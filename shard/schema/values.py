"""Reading the stored values of a field from Python's values, strictly; for few items, where Arrow's calls cost more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import lru_cache
from itertools import accumulate
from types import NoneType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from silverray.shard.schema.columns import Column, ColumnError
from silverray.shard.schema.days import to_days
from silverray.shard.schema.keys import hash_text
from silverray.shard.schema.schema import Field, FieldType

TYPES: Mapping[FieldType, tuple[type, ...]] = {
    "category": (str,),
    "tags": (list,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "date": (date,),
}
"""Python's types of a field's values; the first is that of every value in the log."""
_KEPT_TEXT = 64
"""Characters of the longest texts whose hashes are kept: a written text may have millions."""
_kept_hash = lru_cache(1 << 16)(hash_text)  # written items have few values of their own


def _code(text: str) -> int:
    return _kept_hash(text) if len(text) <= _KEPT_TEXT else hash_text(text)


_STORED: Mapping[FieldType, Callable[[Any], float]] = {
    "category": _code,
    "int": int,
    "float": float,
    "bool": int,
    "date": to_days,
}


def read_values(name: str, values: Sequence[Any], field: Field) -> Column:
    """Read the values of one field.

    Args:
        name: of the field.
        values: one an item; None where it has none. Floats are no NaN and no -0.0.
        field: what they must be.

    Raises:
        ColumnError: a value is of another type, or missing where it may not be.
        ValueError: an integer has more than 64 bits, or a text is no Unicode.
    """
    types = {*TYPES[field.type], NoneType} if field.nullable else {*TYPES[field.type]}
    found = list(map(type, values))
    if not types.issuperset(found):
        row = next(row for row, type_ in enumerate(found) if type_ not in types)
        raise ColumnError(f"column {name}, row {row}: expected {field.type}, got {found[row].__name__}")
    present = None
    if field.nullable:
        present = torch.tensor([value is not None for value in values], dtype=torch.bool)
    if field.type == "tags":
        lists = [value or () for value in values]
        tags = [tag for its in lists for tag in its]
        if not all(type(tag) is str for tag in tags):
            row = next(row for row, its in enumerate(lists) if not all(type(tag) is str for tag in its))
            raise ColumnError(f"column {name}, row {row}: expected a list of strings, got another value in it")
        offsets = torch.tensor(list(accumulate(map(len, lists), initial=0)), dtype=torch.int64)
        return Column(_numbers(map(_code, tags), np.int64), present, offsets)
    stored = _STORED[field.type]
    numbers = [0 if value is None else stored(value) for value in values]
    return Column(_numbers(numbers, np.float64 if field.type == "float" else np.int64), present)


def _numbers(numbers: Any, dtype: type[np.generic]) -> Tensor:
    try:
        return torch.from_numpy(np.fromiter(numbers, dtype=dtype))
    except OverflowError as error:
        raise ValueError(f"expected integers of at most 64 bits: {error}") from None
