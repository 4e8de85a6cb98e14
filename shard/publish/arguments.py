"""What `publish` takes for its arguments: whatever is unambiguous; the rest is refused by the argument's name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from silverray.shard.paths import as_path
from silverray.shard.schema.mistakes import describe_mistake
from silverray.shard.schema.schema import Schema, SchemaError
from silverray.shard.snapshot.manifest import CLAIM, plain_name

Items = Any
"""A `pyarrow.Table`, a mapping of names to columns, or any data frame that gives itself as an Arrow stream."""
Vectors = Any
"""A NumPy array, a tensor or nested lists of numbers."""


def as_table(items: Items) -> pa.Table:
    """Items as a table; a frame of pandas or polars and a mapping of columns are made one.

    Raises:
        ValueError: they are nothing like a table.
    """
    if isinstance(items, pa.Table):
        return items
    frame = hasattr(items, "__arrow_c_stream__") or hasattr(items, "__dataframe__")
    if not (frame or isinstance(items, Mapping | pa.RecordBatch)):
        raise ValueError(f"items: expected a table, a data frame or a mapping of columns, got {_kind(items)}")
    try:
        table = pa.table(dict(items) if isinstance(items, Mapping) else items)
        return table.replace_schema_metadata()  # pandas' own description would go into every partition
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise ValueError(f"items: not readable as a table: {' '.join(str(error).split())}") from None


def as_schema(schema: Schema | Mapping[str, Any] | str | Path) -> Schema:
    """A schema, given as it is, as what its YAML says, or by its file.

    Raises:
        ValueError: it is none, or wrong.
    """
    if isinstance(schema, Schema):
        return schema
    if isinstance(schema, Mapping):
        try:
            return Schema.model_validate(dict(schema))
        except ValidationError as error:
            raise SchemaError("; ".join(f"schema: {describe_mistake(entry)}" for entry in error.errors())) from None
    if isinstance(schema, str) and "\n" in schema:
        raise SchemaError("schema: expected the path of a file, got text; Schema.parse reads YAML")
    return Schema.load(as_path("schema", schema))


def as_vectors(vectors: Vectors) -> NDArray[Any]:
    """Vectors as an array, of float32 where they were lists.

    Raises:
        ValueError: they are no array, or no numbers.
    """
    if np.ma.is_masked(vectors):
        raise ValueError("vectors: expected numbers, got an array that masks some")
    if isinstance(vectors, np.ndarray):
        return vectors
    if isinstance(vectors, torch.Tensor):
        if vectors.dtype != torch.float32:
            shape = list(vectors.shape)
            raise ValueError(f"vectors: expected float32, got {shape} {str(vectors.dtype).removeprefix('torch.')}")
        return vectors.detach().cpu().numpy()
    if not isinstance(vectors, list | tuple):
        raise ValueError(f"vectors: expected an array of float32, got {_kind(vectors)}")
    try:
        numbers = np.asarray(vectors)
    except (TypeError, ValueError):
        raise ValueError("vectors: expected lists of numbers of one length, got uneven ones") from None
    if numbers.dtype.kind not in "fiu":
        raise ValueError(f"vectors: expected lists of numbers, got {numbers.dtype}")
    with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and is refused as such
        return numbers.astype(np.float32)


def as_name(name: str, text: str) -> str:
    """A name that can be printed.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(text, str) or not text or not text.isprintable():
        raise ValueError(f"{name}: expected printable text, got {str(text)[:100]!r}")
    return text


def as_version(version: str) -> str:
    """The name of a version.

    Raises:
        ValueError: it cannot be a folder's.
    """
    if version == CLAIM:
        raise ValueError(f"version: expected another name than {CLAIM!r}, the file that names a store's log")
    try:
        return plain_name(version)
    except ValueError as error:
        raise ValueError(f"version: {error}") from None


def as_whole(name: str, number: int, least: int, most: int) -> int:
    """A whole number within bounds.

    Raises:
        ValueError: it is none.
    """
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or not least <= number <= most:
        raise ValueError(f"{name}: expected a whole number from {least} to {most}, got {str(number)[:100]!r}")
    return int(number)


def _kind(value: object) -> str:
    return type(value).__name__
