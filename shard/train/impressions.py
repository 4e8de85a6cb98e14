"""Impression tables: an impression is a row; see `silverray.shard.train.format`. They are checked as they are read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from silverray.shard.parquet.rows import ID_TYPES, TIME_TYPES, Rows, TableError
from silverray.shard.parquet.table import ParquetTable
from silverray.shard.schema.casts import is_list
from silverray.shard.train.format import ITEM, REQUEST, TIME, USER, RequestFormat

BLOCK = 65_536
"""Impressions that are read at a time: some ten megabytes of columns, so that a file of any length is converted in
bounded memory; smaller blocks cost calls of Arrow's."""

ROW = "row"
"""Column of the row numbers in the whole table, in what is read."""


class Impressions:
    """Impressions in the order of time.

    Args:
        table: them.
        format: what its columns mean.

    Attributes:
        format: as given.
        has_request: whether they say which request an impression belongs to.
        request_schema: the schema of the request table that they can become.

    Raises:
        TableError: a column is missing or has another type.
    """

    def __init__(self, table: ParquetTable, format: RequestFormat) -> None:
        self.format, self._table = format, table
        self.has_request = REQUEST in table
        self._has_user = USER in table
        if not self.has_request and not self._has_user:
            raise TableError(f"{table.path}: expected a column {REQUEST!r} or {USER!r}, there is neither")
        request = table.type_of(REQUEST, *ID_TYPES) if self.has_request else pa.int64()
        user = table.type_of(USER, *ID_TYPES) if self._has_user else None
        table.check(TIME, *TIME_TYPES)
        wanted = {**format.features, ITEM: format.item_type, **{task: pa.float32() for task in format.tasks}}
        for column, type_ in wanted.items():
            table.type_of(column, type_)
        self.request_schema = format.request_schema(request, user)
        named = [*((REQUEST,) if self.has_request else ()), *((USER,) if self._has_user else ()), TIME]
        self._columns = {name: self.request_schema.field(name).type for name in named} | wanted

    def __len__(self) -> int:
        return len(self._table)

    def fault(self, column: str, row: int, message: str) -> TableError:
        """The error of a value; `row` is that of column `row`."""
        return self._table.fault(column, row, message)

    @property
    def described(self) -> tuple[str, ...]:
        """Columns that say something of the request rather than of the impression."""
        return ((USER,) if self._has_user else ()) + tuple(self.format.features)

    def blocks(self) -> Iterator[pa.Table]:
        """The rows, at most `BLOCK` at a time, with the types of the request table, and their numbers in column `row`.

        Raises:
            TableError: a file is damaged or a value is wrong; the message names the file, column and row.
        """
        done, before = 0, None
        for rows in self._table.blocks(self._columns, BLOCK):
            checked = self._checked(rows)
            times = checked.column(TIME).to_numpy()
            rows.check_ascending(TIME, times, before)
            before = int(times[-1])
            yield checked.append_column(ROW, pa.array(np.arange(done, done + len(rows))))
            done += len(rows)

    def _checked(self, rows: Rows) -> pa.Table:
        format, columns = self.format, {}
        if self.has_request:
            columns[REQUEST] = rows.read(REQUEST, self.request_schema.field(REQUEST).type)
        if self._has_user:
            columns[USER] = rows.read(USER, self.request_schema.field(USER).type, nullable=self.has_request)
        columns[TIME] = rows.read_seconds(TIME)
        for name, type_ in format.features.items():
            nullable = not format.is_required(name)
            read = rows.read_finite if pa.types.is_floating(type_) else rows.read
            columns[name] = read(name, type_, nullable=nullable)
            if is_list(type_):
                rows.read_lists(name, type_.value_type, nullable=nullable)
        columns[ITEM] = rows.read(ITEM, format.item_type)
        columns |= {task: rows.read_finite(task, pa.float32()) for task in format.tasks}
        return pa.table(columns)
