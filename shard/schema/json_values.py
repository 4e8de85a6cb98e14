"""Stored values as JSON values. Whatever a snapshot holds has one, so that no item can keep a shard from answering."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa

_MILLISECONDS_A_DAY = 86_400_000
"""Arrow's `date64` counts milliseconds, and no leap seconds."""


def json_value(value: Any) -> Any:
    """A value as JSON: dates as ISO texts, numbers that JSON lacks as null."""
    if isinstance(value, datetime):
        return value.date().isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def json_values(column: pa.ChunkedArray) -> list[Any]:
    """The values of a stored column.

    Snapshots of older versions may hold what Python has no value for. A date outside the years 1 to 9999 becomes a text
    in the expanded form of ISO 8601, such as `+10183-09-21`; bytes that are no UTF-8 become U+FFFD; other values null.
    """
    try:
        values: Iterable[Any] = column.to_pylist()
    except (ValueError, OverflowError, NotImplementedError):
        values = map(_rescued, column)
    return [json_value(value) for value in values]


def _rescued(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, NotImplementedError):
        pass
    match scalar:
        case pa.DictionaryScalar():
            return _rescued(scalar.value)
        case pa.ListScalar() | pa.LargeListScalar() | pa.FixedSizeListScalar():
            return [_rescued(value) for value in scalar.values]
        case pa.StringScalar() | pa.LargeStringScalar():
            return scalar.as_buffer().to_pybytes().decode(errors="replace")
        case pa.Date32Scalar():
            return _expanded(scalar.value)
        case pa.Date64Scalar():
            return _expanded(scalar.value // _MILLISECONDS_A_DAY)
    return None


def _expanded(days: int) -> str:
    """A date, in days since 1970-01-01, that `date` cannot hold: a sign and at least four digits of the year."""
    month = np.datetime64(days, "D").astype("datetime64[M]")
    year, day = month.astype("datetime64[Y]"), days - int(month.astype("datetime64[D]").astype(np.int64)) + 1
    number = int(year.astype(np.int64)) + 1970
    return f"{number:+05d}-{int((month - year).astype(np.int64)) + 1:02d}-{day:02d}"
