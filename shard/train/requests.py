"""Request tables: a request is a row; see `silverray.shard.train.format`. They are checked as they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from silverray.shard.parquet.rows import ID_TYPES, TIME_TYPES, Rows
from silverray.shard.parquet.table import ParquetTable, Part
from silverray.shard.schema.user_features import UserFeatures
from silverray.shard.towers.ids import HashedIds, Vocabulary
from silverray.shard.towers.jagged import Jagged
from silverray.shard.train.codes import category_codes, id_keys
from silverray.shard.train.format import ITEMS, REQUEST, TIME, RequestFormat, id_type

BLOCK = 8_192
"""Requests that are decoded at a time: half a row group, so that no whole one is in memory as Python's and Arrow's
values both."""


class Requests(NamedTuple):
    """R requests whose values are codes already.

    Attributes:
        times: `[R]` int64 seconds.
        user: R lists of int64 codes for each user feature.
        items: keys of the items that each request showed.
        labels: `[I, T]` float32, for the items in the same order.
    """

    times: NDArray[np.int64]
    user: dict[str, Jagged]
    items: Jagged
    labels: NDArray[np.float32]

    def take(self, rows: NDArray[np.int64]) -> Requests:
        """Some of the requests, in the order of `rows`."""
        user = {name: lists.take(rows) for name, lists in self.user.items()}
        labels = Jagged(self.labels, self.items.offsets).take(rows).values
        return Requests(self.times[rows], user, self.items.take(rows), labels)

    @classmethod
    def concat(cls, parts: Sequence[Requests]) -> Requests:
        """The requests of all parts, one part after another."""
        return cls(
            np.concatenate([part.times for part in parts]),
            {name: Jagged.concat([part.user[name] for part in parts]) for name in parts[0].user},
            Jagged.concat([part.items for part in parts]),
            np.concatenate([part.labels for part in parts]),
        )


class RowGroup(NamedTuple):
    """A row group of a request table.

    Attributes:
        part: its file.
        number: of the row group in the file.
        rows: requests in it.
    """

    part: Part
    number: int
    rows: int


class RequestTable:
    """Tables that follow `RequestFormat.request_schema`, in the order of time, one after another.

    Attributes:
        format: what the columns mean.
        groups: all row groups.
    """

    def __init__(self, format: RequestFormat, groups: Sequence[RowGroup]) -> None:
        self.format = format
        self.groups = tuple(groups)

    @classmethod
    def open(cls, paths: Path | Sequence[Path], format: RequestFormat) -> RequestTable:
        """Check the columns of some files, or folders of files; rows are checked as they are read.

        Raises:
            TableError: a file cannot be read, or a column is missing or has another type.
        """
        tables = [ParquetTable.open(path) for path in ([paths] if isinstance(paths, Path) else paths)]
        for table in tables:
            _check_columns(table, format)
        parts = [part for table in tables for part in table.parts]
        return cls(format, [RowGroup(part, *group) for part in parts for group in enumerate(part.groups)])

    def __len__(self) -> int:
        return sum(group.rows for group in self.groups)

    def read(self, group: RowGroup, ids: Vocabulary | HashedIds, before: int | None = None) -> Iterator[Requests]:
        """Decode a row group, at most `BLOCK` requests at a time.

        Args:
            group: one of `groups`.
            ids: gives the items of histories their codes; unknown ones are left out, and of the others the latest L
                stay.
            before: time of the request before the row group; none may be earlier.

        Raises:
            TableError: a value is wrong; the message names the file, column and row.
        """
        for rows in group.part.blocks(_columns(self.format), BLOCK, group.number):
            requests = self._decode(rows, ids)
            rows.check_ascending(TIME, requests.times, before)
            before = int(requests.times[-1])
            yield requests

    def _decode(self, rows: Rows, ids: Vocabulary | HashedIds) -> Requests:
        items, lengths = rows.read_lists(ITEMS, self.format.item_type)
        if len(empty := np.flatnonzero(lengths == 0)):
            raise rows.fault(ITEMS, int(empty[0]), "expected at least one item, got none")
        labels = [rows.read_labels(task, lengths, ITEMS) for task in self.format.tasks]
        return Requests(
            rows.read_seconds(TIME).to_numpy(),
            user_codes(rows, self.format.user, ids),
            Jagged.of_lengths(id_keys(items), lengths),
            np.stack(labels, axis=1),
        )


def user_codes(rows: Rows, features: UserFeatures, ids: Vocabulary | HashedIds) -> dict[str, Jagged]:
    """The user features of some rows as codes, by name.

    Args:
        rows: with a column for each feature.
        features: their rules.
        ids: gives the items of histories their codes; see `RequestTable.read`.

    Raises:
        TableError: a value is wrong.
    """
    history = features.history
    values, lengths = rows.read_lists(features.history_name, id_type(history), nullable=not history.required)
    items = Jagged.of_lengths(ids.rows(id_keys(values)), lengths)
    codes = {features.history_name: items.where(items.values != 0).latest(history.length)}
    return codes | {
        name: Jagged.of_ones(category_codes(rows, name, rule)) for name, rule in features.categories.items()
    }


def _columns(format: RequestFormat) -> dict[str, pa.DataType]:
    """What is read of a request."""
    schema = format.request_schema()
    return {name: schema.field(name).type for name in schema.names if name != REQUEST}


def _check_columns(table: ParquetTable, format: RequestFormat) -> None:
    table.type_of(REQUEST, *ID_TYPES)
    for column, type_ in _columns(format).items():
        if column == TIME:
            table.check(TIME, *TIME_TYPES)
        else:
            table.type_of(column, type_)
