"""The input of a build: items as a user brings them, checked row by row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from silverray.shard.filter.columns import Columns
from silverray.shard.filter.schema import Schema
from silverray.shard.index.catalog import IdType
from silverray.shard.index.keys import MAX_ID_BYTES, hash_texts
from silverray.shard.index.vectors import ItemVectors


class Source(NamedTuple):
    """Checked items: N rows.

    Attributes:
        keys: `[N]` int64, unique.
        id_type: type of the ids.
        vectors: of the items, finite; no zeros for cosine.
        columns: stored values of the filterable fields.
        payload: the columns to return, with the id column when ids are strings.
    """

    keys: NDArray[np.int64]
    id_type: IdType
    vectors: ItemVectors
    columns: Columns
    payload: pa.Table


def read_source(items: pa.Table, schema: Schema, vectors: NDArray[np.float32] | None) -> Source:
    """Check a table of items against a schema.

    Args:
        items: a column per schema field, the id column and, unless `vectors` is given, a `vector` column of lists.
        schema: what the items must look like.
        vectors: `[N, D]` float32 in the order of the table's rows.

    Returns:
        The checked items.

    Raises:
        ValueError: a column is missing or has another type, an id or value is bad; the message names column and row.
    """
    wanted = [schema.id, *schema.fields]
    if missing := [name for name in wanted if name not in items.column_names]:
        raise ValueError(f"column {missing[0]!r} is missing; the table has {', '.join(items.column_names)}")
    for name in [*wanted, *(["vector"] if vectors is None else [])]:
        if (count := items.column_names.count(name)) > 1:
            raise ValueError(f"column {name!r} stands {count} times")
    keys, id_type = _keys(items.column(schema.id), schema.id)
    if vectors is None:
        if "vector" not in items.column_names:
            raise ValueError("column 'vector' is missing; give it or a file of vectors")
        vectors = _vector_column(items.column("vector"))
    checked = _checked_vectors(vectors, len(items), schema)
    names = [name for name, field in schema.fields.items() if field.payload]
    # Rows are taken from it partition by partition, which is slow from many chunks.
    payload = items.select([schema.id, *names] if id_type == "string" else names).combine_chunks()
    return Source(keys, id_type, checked, Columns.from_arrow(items, schema), payload)


def _keys(column: pa.ChunkedArray, name: str) -> tuple[NDArray[np.int64], IdType]:
    if column.null_count:
        row = pc.index(column.is_null(), True).as_py()
        raise ValueError(f"column {name!r}, row {row}: an id cannot be null")
    if pa.types.is_integer(column.type):
        unsigned = column.to_numpy()
        if len(unsigned) and (unsigned.min() < 0 or unsigned.max() > np.iinfo(np.int64).max):
            row = int(np.argmax((unsigned < 0) | (unsigned > np.iinfo(np.int64).max)))
            raise ValueError(f"column {name!r}, row {row}: an id must be 0 to 2^63 - 1, got {unsigned[row]}")
        keys = unsigned.astype(np.int64)
        id_type: IdType = "int"
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        lengths = pc.binary_length(column).to_numpy()
        if len(bad := np.flatnonzero((lengths == 0) | (lengths > MAX_ID_BYTES))):
            raise ValueError(
                f"column {name!r}, row {bad[0]}: an id must have 1 to {MAX_ID_BYTES} bytes, got {lengths[bad[0]]}"
            )
        keys, id_type = hash_texts(column.to_pylist()), "string"
    else:
        raise ValueError(f"column {name!r}: ids must be integers or strings, got {column.type}")
    order = np.argsort(keys, kind="stable")
    if len(same := np.flatnonzero(np.diff(keys[order]) == 0)):
        first, second = order[same[0]], order[same[0] + 1]
        one, other = column[int(first)].as_py(), column[int(second)].as_py()
        what = f"id {one!r} stands twice" if one == other else f"ids {one!r} and {other!r} have the same key"
        raise ValueError(f"column {name!r}, rows {first} and {second}: {what}")
    return keys, id_type


def _vector_column(column: pa.ChunkedArray) -> NDArray[np.float32]:
    kind = column.type
    if not (pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        raise ValueError(f"column 'vector': expected lists of numbers, got {kind}")
    if column.null_count:
        raise ValueError(f"column 'vector', row {pc.index(column.is_null(), True).as_py()}: is null")
    lengths = pc.list_value_length(column).to_numpy()
    if len(uneven := np.flatnonzero(lengths != lengths[:1])):
        raise ValueError(f"column 'vector', row {uneven[0]}: has {lengths[uneven[0]]} numbers, row 0 has {lengths[0]}")
    # Flattening the whole column would copy the vectors twice.
    flat = [pc.list_flatten(chunk).to_numpy(zero_copy_only=False) for chunk in column.chunks]
    parts = [chunk.astype(np.float32, copy=False) for chunk in flat] or [np.empty(0, np.float32)]
    values: NDArray[np.float32] = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return values.reshape(len(column), lengths[0] if len(lengths) else 0)


def _checked_vectors(vectors: NDArray[np.float32], rows: int, schema: Schema) -> ItemVectors:
    dimension = schema.vector.dimension
    if vectors.ndim == 2 and rows == len(vectors) == 0:
        return ItemVectors(np.empty((0, dimension), np.float32), schema.vector.metric)
    if vectors.shape != (rows, dimension) or vectors.dtype != np.float32:
        raise ValueError(f"vectors: expected [{rows}, {dimension}] float32, got {list(vectors.shape)} {vectors.dtype}")
    checked = ItemVectors(vectors, schema.vector.metric)
    checked.check()
    return checked
