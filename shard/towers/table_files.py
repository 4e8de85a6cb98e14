"""Embedding tables in files: one safetensors file a table, of which any rows and columns can be read alone.

A folder holds `tables.json`, the tables in their order, and `NAME.safetensors` with one fp32 tensor, `weight`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from silverray.shard.api import SnapshotError
from silverray.shard.snapshot.documents import array_bytes, read_json
from silverray.shard.towers.table import Table

if TYPE_CHECKING:
    from torchrec import EmbeddingBagCollection

TABLES_FOLDER = "tables"
"""Where a model directory keeps its tables."""

TABLES_FILE = "tables.json"

_WEIGHT = "weight"
_BLOCK_BYTES = 64 << 20
"""A table may be larger than the memory; a block of this size takes a disk long enough that what is done for each
does not count."""


def save_tables(folder: Path, tables: Sequence[Table], module: EmbeddingBagCollection) -> None:
    """Write the tables of an unsharded module.

    Args:
        folder: directory to write to; made if need be.
        tables: the tables that the module was made of.
        module: from `embedding_tables`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for table in tables:
        weight = module.embedding_bags[table.name].weight.detach()
        save_file({_WEIGHT: weight.to("cpu", torch.float32).contiguous()}, folder / _file_name(table))
    documents = json.dumps([asdict(table) for table in tables], indent=2)
    (folder / TABLES_FILE).write_text(documents + "\n", encoding="utf-8")


def read_tables(folder: Path) -> tuple[Table, ...]:
    """The tables that `save_tables` wrote, without their weights. Before room is made for them: `check_tables`.

    Raises:
        SnapshotError: there are none, or their description is damaged.
    """
    path = folder / TABLES_FILE
    try:
        documents = read_json(path)
        return tuple(Table(**{**document, "features": tuple(document["features"])}) for document in documents)
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise SnapshotError(f"{path}: not a readable list of tables: {error!r}") from error


def check_tables(folder: Path, tables: Sequence[Table]) -> None:
    """Raise SnapshotError unless the tables' files have the sizes that their description says; reads no weights."""
    for table in tables:
        with _opened(folder, table):
            pass


def load_tables(folder: Path, tables: Sequence[Table], module: EmbeddingBagCollection) -> None:
    """Read all weights into an unsharded module.

    Raises:
        SnapshotError: a table's file is missing or does not fit.
    """
    with torch.no_grad():
        for table in tables:
            weight = module.embedding_bags[table.name].weight
            read_part(folder, table, (0, 0), weight)


def read_part(folder: Path, table: Table, offsets: tuple[int, int], into: Tensor) -> None:
    """Read a part of a table in place, holding one block of it in memory besides.

    Args:
        folder: where `save_tables` wrote the table.
        table: the table.
        offsets: first row and first column of the part.
        into: the part, `[rows, columns]` fp32, on any device.

    Raises:
        SnapshotError: the file is missing or does not fit.
    """
    rows, columns = into.shape
    wanted = slice(offsets[0], offsets[0] + rows), slice(offsets[1], offsets[1] + columns)
    for start, block in row_blocks(folder, table, *wanted):
        into[start - offsets[0] : start - offsets[0] + len(block)].copy_(block)


def row_blocks(
    folder: Path, table: Table, rows: slice | None = None, columns: slice | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Read a table a block of rows at a time.

    Args:
        folder: where `save_tables` wrote the table.
        table: the table.
        rows: from which row to before which; None is all.
        columns: likewise.

    Yields:
        The first row of a block, and the block, `[rows, columns]` fp32 of at most 64 MiB.

    Raises:
        SnapshotError: the file is missing or does not fit.
    """
    rows, columns = rows or slice(0, table.rows), columns or slice(0, table.dimension)
    step = max(1, _BLOCK_BYTES // (4 * table.dimension))
    with _opened(folder, table) as weight:
        for start in range(rows.start, rows.stop, step):
            yield start, weight[start : min(start + step, rows.stop), columns.start : columns.stop]


@contextmanager
def _opened(folder: Path, table: Table) -> Iterator[Any]:
    """The weights of a table in its file, of which slices can be read."""
    path = folder / _file_name(table)
    try:
        array_bytes(path)  # refuses long headers
        with safe_open(path, framework="pt") as file:
            weight = file.get_slice(_WEIGHT)
            found = [*weight.get_shape(), weight.get_dtype()]
            if found != [table.rows, table.dimension, "F32"]:
                raise SnapshotError(f"{path}: expected [{table.rows}, {table.dimension}, 'F32'], got {found}")
            yield weight
    except (OSError, ValueError, SafetensorError) as error:
        raise SnapshotError(f"{path}: no weights of table {table.name!r}: {error}") from error


def _file_name(table: Table) -> str:
    return f"{table.name}.safetensors"
