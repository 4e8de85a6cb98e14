"""The files that a version is published from: Parquet files, alone or in a folder, and vectors as NumPy writes them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tokenize import TokenError

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from silverray.cluster.column_types import alike
from silverray.cluster.partition_columns import partition_values, with_partitions
from silverray.shard.filter.schema import VECTOR_COLUMN, Schema

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_TABLES = {"_delta_log": "a table of Delta Lake", ".hoodie": "a table of Hudi"}
"""Folders by which other tools tell which of the files beside them count."""
_ICEBERG = "metadata"
"""Likewise, where it holds such files as `v1.metadata.json`; others have folders of this name too."""
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

    A folder may be partitioned as Hive does it (`year=2001/part.parquet`): what its folders say becomes columns. A
    column that its files have in different types becomes what the schema says.

    Args:
        path: the file or the folder.
        schema: which columns are wanted, and what they hold.
        with_vectors: whether the vector column is wanted as well.

    Raises:
        ValueError: there is none, or one cannot be read or has a column twice; the message names the file.
    """
    wanted = [schema.id, *schema.fields, *([VECTOR_COLUMN] if with_vectors else [])]
    tables: dict[Path, pa.Table] = {}
    for file in _files(path):
        folders = file.relative_to(path).parts[:-1] if path.is_dir() else ()
        tables[file] = _read_file(file, wanted, partition_values(file, folders, schema))
    try:
        return pa.concat_tables(alike(tables, schema), promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueError(f"{path}: its files do not fit each other: {_one_line(error)}") from None


def read_vectors(file: Path) -> NDArray[np.float32]:
    """Map an array of a `.npy` file into memory.

    Raises:
        ValueError: there is none; the message names the file.
    """
    _require_local(file)
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


def _refuse_table(folder: Path, path: Path) -> None:
    """Refuse the folder of a table whose own records say which of its files and rows count.

    Args:
        folder: may be one.
        path: what the message names: it, or what lies in it.

    Raises:
        ValueError: it is one.
    """
    kind = next((kind for mark, kind in _TABLES.items() if (folder / mark).is_dir()), None)
    if kind is None and next((folder / _ICEBERG).glob("*.metadata.json"), None):
        kind = "a table of Iceberg"
    if kind:
        told = kind if folder == path else f"lies in {folder}: {kind}"
        raise ValueError(f"{path}: {told} keeps rows that it has deleted; write its rows to Parquet")


def _files(path: Path) -> list[Path]:
    """The files to read; those whose name, or a folder's, begins with `.` or `_` are none, as other tools have it."""
    _require_local(path)
    try:
        for folder in path.resolve().parents:
            _refuse_table(folder, path)
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise ValueError(f"{path}: {'expected a file or a folder' if path.exists() else 'no such file'}")
        found = sorted(_below(path), key=str)
    except OSError as error:
        raise ValueError(f"{error.filename or path}: cannot be read: {error.strerror}") from None
    if not found:
        raise ValueError(f"{path}: holds no Parquet file")
    return found


def _below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The files below a folder, through links too; one that leads back to a folder `above` adds none."""
    if (place := folder.resolve()) in above:
        return
    _refuse_table(folder, folder)
    for child in folder.iterdir():
        if child.name.startswith((".", "_")):
            continue
        if child.is_dir():
            yield from _below(child, (*above, place))
        elif child.is_file():
            yield child
        else:
            raise ValueError(f"{child}: {'expected a file or a folder' if child.exists() else 'no such file'}")


def _require_local(path: Path) -> None:
    if _URL.match(str(path)) and not path.exists():
        raise ValueError(f"{path}: only local paths are read; copy it to this machine first")


def _read_file(file: Path, wanted: Sequence[str], partitions: dict[str, pa.Scalar]) -> pa.Table:
    """The wanted columns of a file, those that its folders stand for included."""
    try:
        with pq.ParquetFile(file) as parquet:
            counts = Counter(parquet.schema_arrow.names)
            for name in wanted:
                if counts[name] > 1:
                    raise ValueError(f"{file}: column {name!r} stands {counts[name]} times")
            mine = [name for name in wanted if counts[name]]
            # A name also stands for the parts of a nested column, and for names that begin with it and a dot.
            table = parquet.read(columns=mine, use_threads=True)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file}: not a readable Parquet file: {_one_line(error)}") from None
    missing = [name for name in wanted if name not in mine and name not in partitions]
    if missing:
        has = ", ".join([*counts, *(name for name in partitions if name not in counts)])
        raise ValueError(f"{file}: column {missing[0]!r} is missing; it has {has or 'none'}")
    return with_partitions(file, table.select(mine), partitions).select(list(wanted))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
