"""Reading the stored values of fields from Arrow tables, strictly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from silverray.shard.filter.columns import Column, ColumnError
from silverray.shard.filter.schema import Field, FieldType, Schema
from silverray.shard.index.keys import hash_texts

EXPECTED = {
    "category": "strings",
    "tags": "lists of strings",
    "int": "integers",
    "float": "floating-point numbers",
    "bool": "booleans",
    "date": "dates (date32 or date64)",
}
MILLISECONDS_PER_DAY = 86_400_000
_NULL_TYPES = {
    "category": pa.string(),
    "tags": pa.list_(pa.string()),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
}


def read_columns(table: pa.Table, schema: Schema) -> dict[str, Column]:
    """Check every field of a table and read the filterable ones; see `Columns.from_arrow`."""
    fields = {}
    for name, field in schema.fields.items():
        if name not in table.column_names:
            raise ColumnError(f"column {name}: expected {EXPECTED[field.type]}, there is no such column")
        array = _checked(name, table.column(name), field)
        if field.filter:
            fields[name] = _column(name, array, field)
    return fields


def _checked(name: str, column: pa.ChunkedArray, field: Field) -> pa.Array:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks == 1 else pa.concat_arrays(array.chunks)
    if pa.types.is_null(array.type):
        array = pa.nulls(len(array), _NULL_TYPES[field.type])
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not _has_type(array.type, field.type):
        raise ColumnError(f"column {name}: expected {EXPECTED[field.type]}, got {column.type}")
    if field.nullable or (field.type != "float" and not array.null_count):
        return array
    missing = pc.is_null(array, nan_is_null=field.type == "float")
    if pc.any(missing).as_py():
        row = pc.index(missing, True).as_py()
        raise ColumnError(f"column {name}, row {row}: expected a value, got none (the field is not nullable)")
    return array


def _is_text(type_: pa.DataType) -> bool:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def _has_type(type_: pa.DataType, wanted: FieldType) -> bool:
    match wanted:
        case "category":
            return _is_text(type_)
        case "tags":
            lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
            return any(is_list(type_) for is_list in lists) and _is_text(type_.value_type)
        case "int":
            return bool(pa.types.is_integer(type_))
        case "float":
            return bool(pa.types.is_floating(type_))
        case "bool":
            return bool(pa.types.is_boolean(type_))
        case "date":
            return bool(pa.types.is_date(type_))


def _column(name: str, array: pa.Array, field: Field) -> Column:
    offsets = None
    present = pc.is_valid(array) if field.nullable else None
    match field.type:
        case "category":
            values = _hashes(name, array.cast(pa.large_string()))
        case "tags":
            values, offsets = _tags(name, array)
        case "int":
            values = _integers(name, array)
        case "float":
            values = array.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
            missing = np.isnan(values)
            present = pa.array(~missing)
            values = np.where(missing, 0.0, values) + 0.0
        case "bool":
            values = array.fill_null(False).cast(pa.int64()).to_numpy(zero_copy_only=False)
        case "date":
            milliseconds = array.cast(pa.date64()).cast(pa.int64()).fill_null(0)
            values = milliseconds.to_numpy(zero_copy_only=False) // MILLISECONDS_PER_DAY
    mask = None if present is None or not field.nullable else _tensor(present.to_numpy(zero_copy_only=False))
    return Column(_tensor(values), mask, None if offsets is None else _tensor(offsets))


def _integers(name: str, array: pa.Array) -> Any:
    if pa.types.is_uint64(array.type):
        large = pc.fill_null(pc.greater(array, pa.scalar(2**63 - 1, pa.uint64())), False)
        if pc.any(large).as_py():
            row = pc.index(large, True).as_py()
            raise ColumnError(f"column {name}, row {row}: expected an integer below 2^63, got {array[row]}")
    return array.fill_null(0).cast(pa.int64()).to_numpy(zero_copy_only=False)


def _tags(name: str, array: pa.Array) -> tuple[Any, Any]:
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    # A fixed-size list keeps room for the values of a missing list; list_flatten leaves them out.
    values = pc.list_flatten(array)
    if values.null_count:
        place = pc.index(pc.is_null(values), True).as_py()
        row = int(np.searchsorted(offsets, place, side="right")) - 1
        raise ColumnError(f"column {name}, row {row}: expected strings in the list, got a missing value")
    return _hashes(name, values.cast(pa.large_string())), offsets


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
