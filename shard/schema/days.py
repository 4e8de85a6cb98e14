"""Dates as numbers: days since 1970-01-01, as columns store them and the log writes them."""

from __future__ import annotations

from datetime import date, timedelta

_EPOCH = date(1970, 1, 1)


def to_days(day: date) -> int:
    """The days from 1970-01-01 to a date; fewer than none before it.

    Example:
        >>> to_days(date(1969, 12, 31))
        -1
    """
    return day.toordinal() - _EPOCH.toordinal()


def from_days(days: int) -> date:
    """Undo `to_days`.

    Raises:
        OverflowError: the day is in no year from 1 to 9999.
    """
    return _EPOCH + timedelta(days=days)
