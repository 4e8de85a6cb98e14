"""The input of a build: items as a user brings them, checked row by row."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from silverray.shard.publish.vectors import ItemVectors
from silverray.shard.schema.arrow import canonical, filterable
from silverray.shard.schema.casts import CastError, cast, decoded_type, fits, is_numbers, is_text, one_array
from silverray.shard.schema.columns import Columns
from silverray.shard.schema.keys import MAX_ID_BYTES, hash_texts
from silverray.shard.schema.schema import Schema
from silverray.shard.snapshot.catalog import IdType


class Source(NamedTuple):
    """Checked items: N rows.

    Attributes:
        keys: `[N]` int64, unique.
        id_type: type of the ids.
        vectors: of the items, finite; no zeros for cosine.
        columns: stored values of the filterable fields.
        items: the id column and all fields, in types that hold every value of the schema.
        payload: those of them to return, with the id column when ids are strings.
    """

    keys: NDArray[np.int64]
    id_type: IdType
    vectors: ItemVectors
    columns: Columns
    items: pa.Table
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
    ids, keys, id_type = _ids(items.column(schema.id), schema.id)
    if vectors is None:
        if "vector" not in items.column_names:
            raise ValueError("column 'vector' is missing; give it or a file of vectors")
        vectors = _vector_column(items.column("vector"))
    checked = _checked_vectors(vectors, len(items), schema)
    fields = canonical(items, schema)
    # Rows are taken from it partition by partition, which is slow from many chunks.
    whole = fields.add_column(0, schema.id, one_array(ids))
    names = [name for name, field in schema.fields.items() if field.payload]
    payload = whole.select([schema.id, *names] if id_type == "string" else names)
    return Source(keys, id_type, checked, Columns(len(items), filterable(fields, schema)), whole, payload)


def _ids(given: pa.ChunkedArray, name: str) -> tuple[pa.ChunkedArray, NDArray[np.int64], IdType]:
    """The id column as int64 or large strings, its keys, and which of the two it is."""
    id_type: IdType = "string" if is_text(decoded_type(given.type)) else "int"
    wanted = pa.large_string() if id_type == "string" else pa.int64()
    if not fits(given.type, wanted):
        raise ValueError(f"column {name!r}: ids must be integers or strings, got {given.type}")
    try:
        column = cast(given, wanted)
    except CastError as error:
        expected = f"an id must be {error.expected}" if id_type == "string" else "an id must be 0 to 2^63 - 1"
        raise ValueError(f"column {name!r}, row {error.row}: {expected}, got {error.got}") from None
    if column.null_count:
        row = pc.index(column.is_null(), True).as_py()
        raise ValueError(f"column {name!r}, row {row}: an id cannot be null")
    if id_type == "int":
        keys = column.to_numpy()
        if len(bad := np.flatnonzero(keys < 0)):
            raise ValueError(f"column {name!r}, row {bad[0]}: an id must be 0 to 2^63 - 1, got {keys[bad[0]]}")
    else:
        lengths = pc.binary_length(column).to_numpy()
        if len(bad := np.flatnonzero((lengths == 0) | (lengths > MAX_ID_BYTES))):
            raise ValueError(
                f"column {name!r}, row {bad[0]}: an id must have 1 to {MAX_ID_BYTES} bytes, got {lengths[bad[0]]}"
            )
        keys = hash_texts(column.to_pylist())
    order = np.argsort(keys, kind="stable")
    if len(same := np.flatnonzero(np.diff(keys[order]) == 0)):
        first, second = order[same[0]], order[same[0] + 1]
        one, other = column[int(first)].as_py(), column[int(second)].as_py()
        what = f"id {one!r} stands twice" if one == other else f"ids {one!r} and {other!r} have the same key"
        raise ValueError(f"column {name!r}, rows {first} and {second}: {what}")
    return column, keys, id_type


def _vector_column(given: pa.ChunkedArray) -> NDArray[np.float32]:
    if not is_numbers(given.type):
        raise ValueError(f"column 'vector': expected lists of numbers, got {given.type}")
    try:
        column = cast(given, pa.large_list(pa.float32()))
    except CastError as error:
        raise ValueError(f"column 'vector', row {error.row}: {error}") from None
    if column.null_count:
        raise ValueError(f"column 'vector', row {pc.index(column.is_null(), True).as_py()}: is null")
    lengths = pc.list_value_length(column).to_numpy()
    if len(uneven := np.flatnonzero(lengths != lengths[:1])):
        raise ValueError(f"column 'vector', row {uneven[0]}: has {lengths[uneven[0]]} numbers, row 0 has {lengths[0]}")
    width = int(lengths[0]) if len(lengths) else 0
    # Flattening the whole column would copy the vectors twice.
    flat = [pc.list_flatten(chunk) for chunk in column.chunks]
    first = 0
    for chunk in flat:
        if chunk.null_count:
            row = first + pc.index(chunk.is_null(), True).as_py() // width
            raise ValueError(f"column 'vector', row {row}: expected {width} numbers, got null in them")
        first += len(chunk) // max(width, 1)
    parts = [chunk.to_numpy() for chunk in flat] or [np.empty(0, np.float32)]
    values: NDArray[np.float32] = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return values.reshape(len(column), width)


def _checked_vectors(vectors: NDArray[np.float32], rows: int, schema: Schema) -> ItemVectors:
    dimension = schema.vector.dimension
    if vectors.ndim == 2 and rows == len(vectors) == 0:
        return ItemVectors(np.empty((0, dimension), np.float32), schema.vector.metric)
    if vectors.shape != (rows, dimension) or vectors.dtype != np.float32:
        raise ValueError(f"vectors: expected [{rows}, {dimension}] float32, got {list(vectors.shape)} {vectors.dtype}")
    checked = ItemVectors(vectors, schema.vector.metric)
    checked.check()
    return checked
