"""Parquet files that are a table together, read a block at a time with one rule for types; see docs/types.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from silverray.shard.parquet.partitions import first_other, folder_texts, parse
from silverray.shard.parquet.paths import parquet_files
from silverray.shard.parquet.rows import Rows, TableError, either, fault, fitting_types
from silverray.shard.schema.casts import decoded_type

BLOCK = 65_536
"""Rows of a whole table that are decoded at a time: texts in lists may have 2 GiB in a block, and fewer rows cost a
call each (decision 8.4)."""


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a table.

    Attributes:
        path: where it is.
        schema: of the columns in it.
        folders: what the folders below the table's say, by column; None for no value.
        groups: rows of its row groups.
    """

    path: Path
    schema: pa.Schema
    folders: Mapping[str, str | None]
    groups: tuple[int, ...]

    @classmethod
    def open(cls, path: Path, folders: Sequence[str] = ()) -> Part:
        """Read what a file says of itself; `folders` lead to it from the table's.

        Raises:
            TableError: it is no Parquet file.
        """
        with _named_errors(f"{path}: not a readable Parquet file"), pq.ParquetFile(path) as file:
            sizes = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
            return cls(path, file.schema_arrow, folder_texts(folders), tuple(sizes))

    def __contains__(self, column: object) -> bool:
        return column in self.schema.names or column in self.folders

    def __len__(self) -> int:
        return sum(self.groups)

    def fitting(self, column: str, wanted: Sequence[pa.DataType]) -> list[pa.DataType]:
        """The types of some that a column can be read as.

        Raises:
            TableError: there is none, or no such column, or it stands twice.
        """
        count = self.schema.names.count(column)
        if count > 1:
            raise TableError(f"{self.path}: column {column!r} stands {count} times")
        if column not in self:
            has = ", ".join(dict.fromkeys([*self.schema.names, *self.folders])) or "none"
            raise TableError(
                f"{self.path}: column {column!r}: expected {either(wanted)}, there is no such column; it has {has}"
            )
        fitting = list(wanted)
        if count:
            actual = self.schema.field(column).type
            if not (fitting := fitting_types(actual, wanted)):
                raise TableError(f"{self.path}: column {column!r}: expected {either(wanted)}, got {actual}")
        if column in self.folders and not (fitting := [type_ for type_ in fitting if self._says(column, type_)]):
            folder = f"{column}={self.folders[column]}"
            raise TableError(f"{self.path}: its folder says {folder!r}, which is no {either(wanted)}")
        return fitting

    def blocks(
        self,
        columns: Mapping[str, pa.DataType],
        size: int,
        group: int | None = None,
        *,
        threads: bool = False,
    ) -> Iterator[Rows]:
        """Columns as they are stored, at most `size` rows at a time, those that folders stand for among them.

        Args:
            columns: what they are going to be read as; see `fitting`.
            size: of a block.
            group: the row group to read; None for all.
            threads: whether columns are decoded side by side.

        Raises:
            TableError: the file is damaged, or a row says other than its folder.
        """
        own = [name for name in columns if name in self.schema.names]
        first, groups = (0, None) if group is None else (sum(self.groups[:group]), [group])
        with _named_errors(f"{self.path}: not a readable Parquet file"):
            file = pq.ParquetFile(self.path)
        with file:
            batches = file.iter_batches(size, row_groups=groups, columns=own, use_threads=threads)
            while True:
                with _named_errors(f"{self.path}: cannot be read from row {first} on"):
                    if (batch := next(batches, None)) is None:
                        return
                # A name also stands for the parts of a nested column, and for names that begin with it and a dot.
                rows = Rows(str(self.path), pa.table(batch).select(own), first)
                yield self._with_folders(rows, columns)
                first += len(rows)

    def _with_folders(self, rows: Rows, columns: Mapping[str, pa.DataType]) -> Rows:
        table = rows.table
        for name in [name for name in columns if name in self.folders]:
            value = parse(self.folders[name], columns[name])
            if name not in table.column_names:
                table = table.append_column(name, pa.repeat(value, len(rows)))
            elif (row := first_other(rows.cast(name, columns[name]), value)) is not None:
                told = f"holds {table.column(name)[row].as_py()!r}, but its folder says {value.as_py()!r}"
                raise rows.fault(name, row, told)
        return Rows(rows.name, table, rows.first)

    def _says(self, column: str, wanted: pa.DataType) -> bool:
        try:
            parse(self.folders[column], wanted)
        except ValueError:
            return False
        return True


class ParquetTable:
    """A Parquet file, or all those in a folder in the order of their names, one after another.

    A folder may be partitioned as Hive does it (`year=2001/part.parquet`): what its folders say becomes columns. Files
    may have a column in different types, as long as there is one that all of them can be read as.

    Attributes:
        path: of the file or the folder.
        parts: its files.
    """

    def __init__(self, path: Path, parts: Sequence[Part]) -> None:
        self.path, self.parts = path, tuple(parts)

    @classmethod
    def open(cls, path: Path) -> ParquetTable:
        """Find the files, and read what they say of themselves.

        Raises:
            TableError: there is none, or one cannot be read; the message names it.
        """
        files = parquet_files(path)
        below = path.is_dir()
        return cls(path, [Part.open(file, file.relative_to(path).parts[:-1] if below else ()) for file in files])

    def __contains__(self, column: object) -> bool:
        return any(column in part for part in self.parts)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def stored_types(self, column: str) -> list[pa.DataType]:
        """The types that files have a column in, without the encodings that reading undoes."""
        return [decoded_type(part.schema.field(column).type) for part in self.parts if column in part.schema.names]

    def type_of(self, column: str, *wanted: pa.DataType) -> pa.DataType:
        """The first of some types that the column can be read as in all files.

        Raises:
            TableError: there is none, or a file lacks the column; the message names the file.
        """
        common = list(wanted)
        for part in self.parts:
            fitting = part.fitting(column, wanted)
            if not (left := [type_ for type_ in common if type_ in fitting]):
                other = f"expected {either(common)} as in {self.parts[0].path}, got {either(fitting)}"
                raise TableError(f"{part.path}: column {column!r}: {other}")
            common = left
        return common[0]

    def check(self, column: str, *wanted: pa.DataType) -> None:
        """See that each file has a column as one of some types, not all of them as the same.

        Raises:
            TableError: one does not; the message names it.
        """
        for part in self.parts:
            part.fitting(column, wanted)

    def fault(self, column: str, row: int, message: str) -> TableError:
        """The error of a value; `row` counts from the first row of the first file, and the message names its own."""
        for part in self.parts:
            if row < len(part):
                return fault(str(part.path), column, row, message)
            row -= len(part)
        raise IndexError(row)

    def blocks(self, columns: Mapping[str, pa.DataType], size: int) -> Iterator[Rows]:
        """All rows, at most `size` at a time; see `Part.blocks`."""
        for part in self.parts:
            yield from part.blocks(columns, size)

    def read(self, columns: Mapping[str, pa.DataType]) -> pa.Table:
        """All rows in memory, with the types that are wanted.

        Args:
            columns: from `type_of`.

        Raises:
            TableError: a value does not fit; the message names the file, column and row.
        """
        schema = pa.schema(list(columns.items()))
        tables = [
            pa.table([rows.cast(name, type_) for name, type_ in columns.items()], schema=schema)
            for part in self.parts
            for rows in part.blocks(columns, BLOCK, threads=True)
        ]
        return pa.concat_tables([schema.empty_table(), *tables])


@contextmanager
def _named_errors(what: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise TableError(f"{what}: {' '.join(str(error).split())}") from None
