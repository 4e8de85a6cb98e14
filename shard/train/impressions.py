"""Impression tables: Parquet files in which an impression is a row, checked as they are read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from silverray.shard.train.columns import ID_TYPES, RequestError, Rows, check_type
from silverray.shard.train.format import ITEM, REQUEST, TIME, USER, RequestFormat

BLOCK = 65_536
"""Impressions that are read at a time."""

ROW = "row"
"""Column of the row numbers, in what is read."""


class ImpressionFile:
    """A file of impressions in the order of time; see `silverray.shard.train.format`.

    Args:
        file: it.
        name: what messages call it.
        format: what its columns mean.

    Attributes:
        name: as given.
        format: as given.
        has_request: whether it says which request an impression belongs to.
        request_schema: the schema of the request table that it can become.

    Raises:
        RequestError: a column is missing or has another type.
    """

    def __init__(self, file: pq.ParquetFile, name: str, format: RequestFormat) -> None:
        self.name, self.format, self._file = name, format, file
        schema = file.schema_arrow
        self.has_request = REQUEST in schema.names
        self._has_user = USER in schema.names
        if not self.has_request and not self._has_user:
            raise RequestError(f"{name}: expected a column {REQUEST!r} or {USER!r}, there is neither")
        request = check_type(name, schema, REQUEST, *ID_TYPES) if self.has_request else pa.int64()
        user = check_type(name, schema, USER, *ID_TYPES) if self._has_user else None
        check_type(name, schema, TIME, pa.int64(), pa.timestamp("us"))
        wanted = {**format.features, ITEM: format.item_type, **{task: pa.float32() for task in format.tasks}}
        for column, type_ in wanted.items():
            check_type(name, schema, column, type_)
        self.request_schema = format.request_schema(request, user)

    def __len__(self) -> int:
        return int(self._file.metadata.num_rows)

    @property
    def described(self) -> tuple[str, ...]:
        """Columns that say something of the request rather than of the impression."""
        return ((USER,) if self._has_user else ()) + tuple(self.format.features)

    def blocks(self) -> Iterator[pa.Table]:
        """The rows, at most `BLOCK` at a time, with the types of the request table, and their numbers in column `row`.

        Raises:
            RequestError: the file is damaged or a value is wrong; the message names the column and row.
        """
        columns = [*((REQUEST,) if self.has_request else ()), *self.described, TIME, ITEM, *self.format.tasks]
        first, before = 0, None
        try:
            for batch in self._file.iter_batches(BLOCK, columns=columns, use_threads=False):
                rows = Rows(self.name, pa.table(batch), first)
                checked = self._checked(rows)
                times = checked.column(TIME).to_numpy()
                rows.check_ascending(TIME, times, before)
                first, before = first + len(rows), int(times[-1])
                yield checked
        except (pa.ArrowInvalid, OSError) as error:
            raise RequestError(f"{self.name}: cannot be read: {error}") from error

    def _checked(self, rows: Rows) -> pa.Table:
        format, columns = self.format, {ROW: pa.array(np.arange(rows.first, rows.first + len(rows)))}
        if self.has_request:
            columns[REQUEST] = rows.read(REQUEST, self.request_schema.field(REQUEST).type)
        if self._has_user:
            columns[USER] = rows.read(USER, self.request_schema.field(USER).type, nullable=self.has_request)
        columns[TIME] = rows.read_seconds(TIME)
        for name, type_ in format.features.items():
            nullable = not format.is_required(name)
            read = rows.read_finite if pa.types.is_floating(type_) else rows.read
            columns[name] = read(name, type_, nullable=nullable)
            if pa.types.is_list(type_):
                rows.read_lists(name, type_.value_type, nullable=nullable)
        columns[ITEM] = rows.read(ITEM, format.item_type)
        columns |= {task: rows.read_finite(task, pa.float32()) for task in format.tasks}
        return pa.table(columns)
