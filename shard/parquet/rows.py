"""Reading columns of some rows of a file, with errors that name the file, the column and the row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from silverray.shard.schema.casts import (
    PARTS_A_SECOND,
    CastError,
    cast,
    decoded,
    decoded_type,
    fits,
    one_array,
    plain_name,
)

ID_TYPES = (pa.int64(), pa.large_string())
TIME_TYPES = (pa.int64(), pa.timestamp("us"))
"""What `Rows.read_seconds` reads."""

FARTHEST_S = 10**10
"""Seconds around 1970 in which times lie, until the year 2286: milliseconds, and finer, soon have more digits."""


class TableError(ValueError):
    """A file of a table cannot be used; the message names the file, and where it can the column and row."""


def fault(name: str, column: str, row: int, message: str) -> TableError:
    """The error of a value."""
    return TableError(f"{name}: column {column!r}, row {row}: {message}")


@dataclass(frozen=True, slots=True)
class Rows:
    """A run of rows of a file.

    Attributes:
        name: the file, in messages.
        table: the rows.
        first: number of the first one in the file.
    """

    name: str
    table: pa.Table
    first: int = 0

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def fault(self, column: str, row: int, message: str) -> TableError:
        """The error of a value; `row` counts from the first of these rows."""
        return fault(self.name, column, self.first + row, message)

    def cast(self, column: str, wanted: pa.DataType) -> pa.ChunkedArray:
        """A column in another type; see `silverray.shard.schema.casts.cast`.

        Raises:
            TableError: a value does not fit.
        """
        try:
            return cast(self.table.column(column), wanted)
        except CastError as error:
            if error.row is None:
                raise TableError(f"{self.name}: column {column!r}: {error}") from None
            raise self.fault(column, error.row, str(error)) from None

    def read(self, column: str, wanted: pa.DataType, *, nullable: bool = False) -> pa.Array:
        """A column as one array of a type; texts and lists of a type with 64-bit offsets may have any length.

        Raises:
            TableError: a value is missing, or does not fit.
        """
        array = one_array(self.cast(column, wanted))
        if not nullable and array.null_count:
            raise self.fault(column, pc.index(pc.is_null(array), True).as_py(), "expected a value, got null")
        return array

    def read_lists(
        self, column: str, wanted: pa.DataType, *, nullable: bool = False
    ) -> tuple[pa.Array, NDArray[np.int64]]:
        """The values of a column of lists, all in a row, and the lengths of the lists; a null list is an empty one.

        Raises:
            TableError: a list or a value in one is missing, or does not fit.
        """
        lists = self.read(column, pa.large_list(wanted), nullable=nullable)
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        values = pc.list_flatten(lists)
        if values.null_count:
            place = pc.index(pc.is_null(values), True).as_py()
            row = int(np.searchsorted(np.cumsum(lengths), place, side="right"))
            raise self.fault(column, row, "expected a list of values, got null in it")
        return values, lengths

    def read_finite(self, column: str, wanted: pa.DataType, *, nullable: bool = False) -> pa.Array:
        """A column of numbers, none of them NaN or infinite.

        Raises:
            TableError: a value is missing, or does not fit.
        """
        array = self.read(column, wanted, nullable=nullable)
        finite = pc.fill_null(pc.is_finite(array), True)
        if not pc.all(finite, min_count=0).as_py():
            row = pc.index(finite, False).as_py()
            raise self.fault(column, row, f"expected a finite number, got {array[row].as_py()}")
        return array

    def read_seconds(self, column: str) -> pa.Array:
        """A column of seconds or timestamps as int64 seconds since 1970-01-01 UTC, parts of a second dropped.

        Raises:
            TableError: a value is missing, or so far from 1970 that it cannot have been seconds.
        """
        given, parts = self.table.column(column), 1
        rows, type_ = self, decoded_type(given.type)
        if pa.types.is_timestamp(type_):
            numbers = [decoded(chunk).cast(pa.int64()) for chunk in given.chunks]
            rows = Rows(self.name, pa.table({column: pa.chunked_array(numbers, pa.int64())}), self.first)
            parts = PARTS_A_SECOND[type_.unit]
        seconds = rows.read(column, pa.int64()).to_numpy() // parts
        if len(far := np.flatnonzero((seconds < -FARTHEST_S) | (seconds >= FARTHEST_S))):
            got = f"{seconds[far[0]]}; cast milliseconds, and finer, to a timestamp of their unit"
            raise self.fault(column, int(far[0]), f"expected seconds since 1970, of ten digits at most, got {got}")
        return pa.array(seconds)

    def read_labels(self, column: str, lengths: NDArray[np.int64], of: str) -> NDArray[np.float32]:
        """The labels of a task, as many in each row as another column has items.

        Raises:
            TableError: there are more or fewer, or one is missing or not finite.
        """
        values, own = self.read_lists(column, pa.float32())
        if len(uneven := np.flatnonzero(own != lengths)):
            row = int(uneven[0])
            raise self.fault(column, row, f"expected {lengths[row]} labels, as many as {of!r} has, got {own[row]}")
        labels: NDArray[np.float32] = values.to_numpy(zero_copy_only=False)
        if len(bad := np.flatnonzero(~np.isfinite(labels))):
            row = int(np.searchsorted(np.cumsum(own), bad[0], side="right"))
            raise self.fault(column, row, f"expected finite labels, got {labels[bad[0]]}")
        return labels

    def check_ascending(self, column: str, times: NDArray[np.int64], before: int | None) -> None:
        """See that times never fall, not even from the row before these.

        Raises:
            TableError: they do.
        """
        start = times[:1] if before is None else np.array([before])
        steps = np.diff(np.concatenate([start, times]))
        if len(falls := np.flatnonzero(steps < 0)):
            row = int(falls[0])
            after = times[row - 1] if row else before
            raise self.fault(column, row, f"expected ascending times, got {times[row]} after {after}")


def check_type(name: str, schema: pa.Schema, column: str, *wanted: pa.DataType) -> pa.DataType:
    """See that a column is there and holds what can be read as one of some types.

    Returns:
        The first of the types that fits.

    Raises:
        TableError: it is not there, or none fits.
    """
    if column not in schema.names:
        raise TableError(f"{name}: column {column!r}: expected {either(wanted)}, there is no such column")
    actual = schema.field(column).type
    if not (fitting := fitting_types(actual, wanted)):
        raise TableError(f"{name}: column {column!r}: expected {either(wanted)}, got {actual}")
    return fitting[0]


def fitting_types(actual: pa.DataType, wanted: Sequence[pa.DataType]) -> list[pa.DataType]:
    """Those of some types that a column of a type can be read as; of timestamps all are one."""
    moments = pa.types.is_timestamp(decoded_type(actual))
    return [type_ for type_ in wanted if (moments if pa.types.is_timestamp(type_) else fits(actual, type_))]


def either(types: Sequence[pa.DataType]) -> str:
    """Types in words: `int64 or string`."""
    return " or ".join(map(plain_name, types))
