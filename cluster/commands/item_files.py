"""The files that a version is published from: Parquet files, alone or in a folder, and vectors as NumPy writes them."""

from __future__ import annotations

from pathlib import Path
from tokenize import TokenError

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from silverray.shard.parquet.paths import require_local
from silverray.shard.parquet.rows import ID_TYPES, TableError
from silverray.shard.parquet.table import ParquetTable
from silverray.shard.schema.casts import ARROW_TYPES, is_numbers
from silverray.shard.schema.schema import VECTOR_COLUMN, Schema

_NUMPY_MAGIC = b"\x93NUMPY"
_ZIP_MAGIC = b"PK"
_NUMPY_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    SyntaxError,
    TokenError,
    OverflowError,
    EOFError,
    MemoryError,
    RecursionError,
)
"""The header of a file is a Python literal: reading one that is not may end in any of these."""


def read_items(path: Path, schema: Schema, *, with_vectors: bool) -> pa.Table:
    """Read the columns of a schema from a Parquet file, or from all those in a folder, in the order of their names.

    Args:
        path: the file or the folder; see `silverray.shard.parquet.table.ParquetTable`.
        schema: which columns are wanted, and what they hold.
        with_vectors: whether the vector column is wanted as well.

    Returns:
        The columns in the types that snapshots keep them in, vectors as lists of float32.

    Raises:
        TableError: a file or a value cannot be read; the message names file, column and row.
    """
    table = ParquetTable.open(path)
    columns = {schema.id: table.type_of(schema.id, *ID_TYPES)}
    columns |= {name: table.type_of(name, ARROW_TYPES[field.type]) for name, field in schema.fields.items()}
    if with_vectors:
        columns[VECTOR_COLUMN] = table.type_of(VECTOR_COLUMN, pa.large_list(pa.float32()))
        for part in table.parts:
            if not is_numbers(kind := part.schema.field(VECTOR_COLUMN).type):
                raise TableError(f"{part.path}: column {VECTOR_COLUMN!r}: expected lists of numbers, got {kind}")
    return table.read(columns)


def read_vectors(file: Path) -> NDArray[np.float32]:
    """Map an array of a `.npy` file into memory.

    Raises:
        ValueError: there is none; the message names the file.
    """
    require_local(file)
    try:
        if not file.is_file():
            raise ValueError("expected a file" if file.exists() else "no such file")
        with file.open("rb") as stream:
            magic = stream.read(len(_NUMPY_MAGIC))
        if magic.startswith(_ZIP_MAGIC):
            raise ValueError("an archive (.npz, or a file of PyTorch); expected one array, as numpy.save writes it")
        if magic != _NUMPY_MAGIC:
            raise ValueError("expected one array, as numpy.save writes it")
        vectors: NDArray[np.float32] = np.load(file, mmap_mode="r", allow_pickle=False)
    except _NUMPY_ERRORS as error:
        raise ValueError(f"{file}: not a readable NumPy file: {_one_line(error)}") from None
    return vectors


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
