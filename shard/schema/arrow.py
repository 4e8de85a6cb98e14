"""Reading the stored values of fields from Arrow tables, strictly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from silverray.shard.schema.casts import ARROW_TYPES, CastError, cast, fits, one_array
from silverray.shard.schema.columns import Column, ColumnError, Columns
from silverray.shard.schema.keys import hash_texts
from silverray.shard.schema.schema import Field, Schema

EXPECTED = {
    "category": "strings",
    "tags": "lists of strings",
    "int": "integers",
    "float": "floating-point numbers",
    "bool": "booleans",
    "date": "dates (date32 or date64)",
}


def read_columns(table: pa.Table, schema: Schema) -> Columns:
    """Read the filterable fields of a table, and check all fields.

    Columns may have any type that docs/types.md names. NaN is a missing value and -0.0 becomes 0.0.

    Args:
        table: a column per field of the schema; others are ignored.
        schema: what the columns must hold.

    Returns:
        Columns on the CPU, in the table's order.

    Raises:
        ColumnError: a column is absent or of another type, has a missing value though it is not nullable, a value
            that the field's type cannot hold, or two texts with one hash.
    """
    return Columns(table.num_rows, filterable(canonical(table, schema), schema))


def canonical(table: pa.Table, schema: Schema) -> pa.Table:
    """The fields of a table in `ARROW_TYPES`, each in one chunk.

    Args:
        table: a column per field of the schema; others are left out.
        schema: what the columns must hold; of fields that are not filterable as well.

    Raises:
        ColumnError: a column is absent or of another type, or a value is missing or does not fit.
    """
    columns = {}
    for name, field in schema.fields.items():
        if name not in table.column_names:
            raise ColumnError(f"column {name}: expected {EXPECTED[field.type]}, there is no such column")
        columns[name] = _checked(name, table.column(name), field)
    return pa.table(columns) if columns else table.select([])


def filterable(table: pa.Table, schema: Schema) -> dict[str, Column]:
    """The columns of the filterable fields of a table from `canonical`, by name."""
    return {name: _column(name, one_array(table.column(name)), field) for name, field in schema.filterable.items()}


def _checked(name: str, column: pa.ChunkedArray, field: Field) -> pa.Array:
    wanted = ARROW_TYPES[field.type]
    if not fits(column.type, wanted):
        raise ColumnError(f"column {name}: expected {EXPECTED[field.type]}, got {column.type}")
    try:
        array = one_array(cast(column, wanted))
    except CastError as error:
        raise ColumnError(f"column {name}, row {error.row}: {error}") from None
    if field.type == "tags":
        _refuse_missing_tags(name, array)
    if field.nullable or (field.type != "float" and not array.null_count):
        return array
    missing = pc.is_null(array, nan_is_null=field.type == "float")
    if pc.any(missing).as_py():
        row = pc.index(missing, True).as_py()
        raise ColumnError(f"column {name}, row {row}: expected a value, got none (the field is not nullable)")
    return array


def _refuse_missing_tags(name: str, array: pa.Array) -> None:
    values = pc.list_flatten(array)
    if values.null_count:
        place, offsets = pc.index(pc.is_null(values), True).as_py(), _offsets(array)
        row = int(np.searchsorted(offsets, place, side="right")) - 1
        got = f"a missing value at [{place - offsets[row]}]"
        raise ColumnError(f"column {name}, row {row}: expected strings in the list, got {got}")


def _column(name: str, array: pa.Array, field: Field) -> Column:
    offsets = None
    present = pc.is_valid(array) if field.nullable else None
    match field.type:
        case "category":
            values = _hashes(name, array)
        case "tags":
            values, offsets = _hashes(name, pc.list_flatten(array)), _offsets(array)
        case "int":
            values = array.fill_null(0).to_numpy(zero_copy_only=False)
        case "float":
            values = array.fill_null(np.nan).to_numpy(zero_copy_only=False)
            missing = np.isnan(values)
            present = pa.array(~missing)
            values = np.where(missing, 0.0, values) + 0.0
        case "bool":
            values = array.fill_null(False).cast(pa.int64()).to_numpy(zero_copy_only=False)
        case "date":
            values = array.cast(pa.int32()).cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    mask = None if present is None or not field.nullable else _tensor(present.to_numpy(zero_copy_only=False))
    return Column(_tensor(values), mask, None if offsets is None else _tensor(offsets))


def _offsets(array: pa.Array) -> NDArray[np.int64]:
    """Where the tags of each row begin, and the last ones end, once those of missing lists are left out."""
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def _hashes(name: str, texts: pa.Array) -> Any:
    encoded = texts.dictionary_encode()
    distinct = encoded.dictionary.to_pylist()
    hashes = hash_texts(distinct)
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(np.diff(hashes[order]) == 0)
    if len(same):
        first, second = distinct[order[same[0]]], distinct[order[same[0] + 1]]
        raise ColumnError(f"column {name}: {first!r} and {second!r} have the same 64-bit hash; change one of them")
    values = np.concatenate([hashes, [0]])  # the last is for missing texts
    return values[encoded.indices.fill_null(len(distinct)).to_numpy(zero_copy_only=False)]


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(np.array(array))
