"""Columns that the folders of a file stand for, as Hive has it: `year=2001/part.parquet`."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from silverray.shard.schema.casts import is_text

_NONE = "__HIVE_DEFAULT_PARTITION__"
"""How Hive writes that there is no value."""


def folder_texts(folders: Sequence[str]) -> dict[str, str | None]:
    """What folders say, by column; None for no value.

    Example:
        >>> folder_texts(["lake", "year=2001", "c=a%2Fb"])
        {'year': '2001', 'c': 'a/b'}
    """
    said = [folder.split("=", 1) for folder in folders if "=" in folder]
    return {name: None if text == _NONE else unquote(text) for name, text in said}


def parse(text: str | None, wanted: pa.DataType) -> pa.Scalar:
    """What a folder says, as a value of a type.

    Raises:
        ValueError: it is none.
    """
    try:
        return pa.scalar(None if text is None else _parse(text, wanted), wanted)
    except (KeyError, OverflowError, pa.ArrowException) as error:
        raise ValueError(text) from error


def first_other(column: pa.ChunkedArray, value: pa.Scalar) -> int | None:
    """The first row of a column that has another value of the same type; None where all have this one."""
    same = pc.equal(column, value) if value.is_valid else column.is_null()
    row: int = pc.index(pc.fill_null(same, False), False).as_py()
    return None if row < 0 else row


def _parse(text: str, wanted: pa.DataType) -> Any:
    if is_text(wanted):
        return text
    if pa.types.is_integer(wanted):
        return int(text)
    if pa.types.is_floating(wanted):
        return float(text)
    if pa.types.is_boolean(wanted):
        return {"true": True, "false": False}[text.lower()]
    if pa.types.is_date(wanted):
        return datetime.date.fromisoformat(text)
    raise ValueError(text)
