"""Request tables: Parquet files in which a request is a row, checked as they are read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from silverray.shard.model.features import UserFeatures
from silverray.shard.model.ids import HashedIds, Vocabulary
from silverray.shard.model.jagged import Jagged
from silverray.shard.train.codes import category_codes, id_keys
from silverray.shard.train.columns import ID_TYPES, RequestError, Rows, check_type
from silverray.shard.train.format import ITEMS, REQUEST, TIME, RequestFormat, id_type

BLOCK = 8_192
"""Requests that are decoded at a time."""


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
        path: its file.
        number: of the row group in the file.
        first: the file's row that it begins with.
        rows: requests in it.
    """

    path: Path
    number: int
    first: int
    rows: int


class RequestTable:
    """Parquet files that follow `RequestFormat.request_schema`, in the order of time, one after another.

    Attributes:
        format: what the columns mean.
        groups: all row groups.
    """

    def __init__(self, format: RequestFormat, groups: Sequence[RowGroup]) -> None:
        self.format = format
        self.groups = tuple(groups)

    @classmethod
    def open(cls, paths: Path | Sequence[Path], format: RequestFormat) -> RequestTable:
        """Check the columns of some files; rows are checked as they are read.

        Raises:
            RequestError: a file cannot be read, or a column is missing or has another type.
        """
        groups: list[RowGroup] = []
        for path in [paths] if isinstance(paths, Path) else paths:
            with open_parquet(path) as file:
                _check_schema(str(path), file.schema_arrow, format)
                sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
            starts = np.cumsum([0, *sizes]).tolist()
            groups += [RowGroup(path, number, starts[number], size) for number, size in enumerate(sizes)]
        return cls(format, groups)

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
            RequestError: a value is wrong; the message names the file, column and row.
        """
        columns = [TIME, *self.format.features, ITEMS, *self.format.tasks]
        first = group.first
        try:
            with open_parquet(group.path) as file:
                for batch in file.iter_batches(BLOCK, row_groups=[group.number], columns=columns, use_threads=False):
                    rows = Rows(str(group.path), pa.table(batch), first)
                    requests = self._decode(rows, ids)
                    rows.check_ascending(TIME, requests.times, before)
                    first, before = first + len(rows), int(requests.times[-1])
                    yield requests
        except (pa.ArrowInvalid, OSError) as error:
            raise RequestError(f"{group.path}: row group {group.number}: cannot be read: {error}") from error

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
        RequestError: a value is wrong.
    """
    history = features.history
    values, lengths = rows.read_lists(features.history_name, id_type(history), nullable=not history.required)
    items = Jagged.of_lengths(ids.rows(id_keys(values)), lengths)
    codes = {features.history_name: items.where(items.values != 0).latest(history.length)}
    return codes | {
        name: Jagged.of_ones(category_codes(rows, name, rule)) for name, rule in features.categories.items()
    }


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file.

    Raises:
        RequestError: it is none.
    """
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise RequestError(f"{path}: not a readable Parquet file: {error}") from None


def _check_schema(name: str, schema: pa.Schema, format: RequestFormat) -> None:
    check_type(name, schema, REQUEST, *ID_TYPES)
    wanted = format.request_schema()
    for column in wanted.names[1:]:
        check_type(name, schema, column, wanted.field(column).type)
