"""Columns that the folders of a file stand for, as Hive has it: `year=2001/part.parquet`."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from silverray.shard.filter.schema import FieldType, Schema

_NONE = "__HIVE_DEFAULT_PARTITION__"
"""How Hive writes that there is no value."""

_TYPES: dict[FieldType, pa.DataType] = {
    "category": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
}


def partition_values(file: Path, folders: Sequence[str], schema: Schema) -> dict[str, pa.Scalar]:
    """What the folders of a file say of a schema's fields, as these have it.

    Raises:
        ValueError: they say something that is none of a field's values; the message names the file.
    """
    values = {}
    for folder in folders:
        name, equals, text = folder.partition("=")
        if not equals or name not in schema.fields:
            continue
        kind = schema.fields[name].type
        try:
            value = None if text == _NONE else _parse(unquote(text), kind)
            values[name] = pa.scalar(value, _TYPES[kind])
        except (KeyError, ValueError, OverflowError, pa.ArrowException):
            raise ValueError(f"{file}: its folder says {folder!r}, which is no {kind}") from None
    return values


def with_partitions(file: Path, table: pa.Table, values: dict[str, pa.Scalar]) -> pa.Table:
    """A file's table with the columns that it lacks; those that it has must say the same.

    Raises:
        ValueError: one says something else; the message names file, column and row.
    """
    for name, value in values.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.repeat(value, len(table)))
        elif (row := _first_other(table.column(name), value)) is not None:
            own = table.column(name)[row].as_py()
            raise ValueError(
                f"{file}: column {name!r}, row {row}: holds {own!r}, but its folder says {value.as_py()!r}"
            )
    return table


def _first_other(column: pa.ChunkedArray, value: pa.Scalar) -> int | None:
    """The first row that has another value; None where all have the same, or are of a type that is refused later."""
    try:
        same = pc.equal(column.cast(value.type), value)
    except pa.ArrowException:
        return None
    if not value.is_valid:
        same = column.is_null()
    row: int = pc.index(pc.fill_null(same, False), False).as_py()
    return None if row < 0 else row


def _parse(text: str, kind: FieldType) -> Any:
    match kind:
        case "int":
            return int(text)
        case "float":
            return float(text)
        case "bool":
            return {"true": True, "false": False}[text.lower()]
        case "date":
            return datetime.date.fromisoformat(text)
    return text
