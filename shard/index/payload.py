"""Payload: ids and stored fields of the items, by slot."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


class Payload:
    """Stored columns in slot order.

    Args:
        table: one row a slot; has the id column when ids are strings.
        keys: `[n]` int64 item keys.
        id_column: name of the id column in `table`, or None when the keys are the ids.
    """

    def __init__(self, table: pa.Table, keys: NDArray[np.int64], id_column: str | None) -> None:
        self._table = table.combine_chunks()
        self._keys = keys
        self._order = np.argsort(keys)
        self._id_column = id_column

    def ids(self, slots: NDArray[np.int64]) -> NDArray[np.int64] | list[str]:
        """Ids of slots: `[m]` int64, or m strings."""
        if self._id_column is None:
            return self._keys[slots]
        texts: list[str] = self._table.column(self._id_column).take(pa.array(slots)).to_pylist()
        return texts

    def keys(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Keys of slots: `[m]` int64."""
        return self._keys[slots]

    def slots(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots of items: `[m]` int64; -1 for keys of no item."""
        if not len(self._keys):
            return np.full(len(keys), -1)
        near = np.searchsorted(self._keys, keys, sorter=self._order).clip(max=len(self._keys) - 1)
        slots = self._order[near]
        return np.where(self._keys[slots] == keys, slots, -1)

    def fields(self, names: Sequence[str], slots: NDArray[np.int64]) -> dict[str, list[Any]]:
        """Values of payload fields as JSON values (dates as ISO text, missing as None), one list of m a field."""
        if not names:
            return {}
        index = pa.array(slots)
        return {name: [_plain(value) for value in self._table.column(name).take(index).to_pylist()] for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.date().isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
