"""Columns that the files of a folder have in different types, each of which the schema takes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa

from silverray.shard.filter.arrow import EXPECTED
from silverray.shard.filter.casts import CastError, cast, decoded_type, fits, is_numbers, is_text
from silverray.shard.filter.schema import VECTOR_COLUMN, Schema
from silverray.shard.index.payload import ARROW_TYPES


def alike(tables: Mapping[Path, pa.Table], schema: Schema) -> list[pa.Table]:
    """Tables of the same columns with the same types: those of the schema, where theirs differ.

    Arrow's own promotion refuses texts beside dictionaries, dates beside times, and times of other zones.

    Args:
        tables: of each file.
        schema: what their columns hold.

    Raises:
        ValueError: a column is of none of the types that are wanted, or a value is not; the message names the file.
    """
    for name in next(iter(tables.values())).column_names:
        types = [table.schema.field(name).type for table in tables.values()]
        if all(type_ == types[0] for type_ in types):
            continue
        wanted, expected = _wanted(name, types, schema)
        for file, before, type_ in zip(list(tables)[1:], types, types[1:], strict=False):
            if type_ != before and not (_fits(name, type_, wanted) and _fits(name, before, wanted)):
                told = f"column {name!r}: expected {expected}, got {before} vs {type_}"
                raise ValueError(f"{file}: does not fit the files before it: {told}")
        tables = {file: _with_type(file, table, name, wanted) for file, table in tables.items()}
    return list(tables.values())


def _wanted(name: str, types: list[pa.DataType], schema: Schema) -> tuple[pa.DataType, str]:
    """The type that a column is to have, and what messages call it."""
    if name == VECTOR_COLUMN:
        return pa.large_list(pa.float32()), "lists of numbers"
    if name != schema.id:
        kind = schema.fields[name].type
        return ARROW_TYPES[kind], EXPECTED[kind]
    first = next(type_ for type_ in types if not pa.types.is_null(type_))
    return (pa.large_string(), EXPECTED["category"]) if is_text(decoded_type(first)) else (pa.int64(), EXPECTED["int"])


def _fits(name: str, type_: pa.DataType, wanted: pa.DataType) -> bool:
    return is_numbers(type_) if name == VECTOR_COLUMN else fits(type_, wanted)


def _with_type(file: Path, table: pa.Table, name: str, wanted: pa.DataType) -> pa.Table:
    try:
        column = cast(table.column(name), wanted)
    except CastError as error:
        raise ValueError(f"{file}: column {name!r}, row {error.row}: {error}") from None
    return table.set_column(table.column_names.index(name), name, column)
