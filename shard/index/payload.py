"""Payload: ids and stored fields of the items, by slot. Letters: N slots, m slots of one call."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from silverray.shard.api import SnapshotError
from silverray.shard.index.key_index import FREE, KeySlots
from silverray.shard.index.text_sizes import text_sizes, value_size
from silverray.shard.schema.casts import ARROW_TYPES
from silverray.shard.schema.json_values import json_value, json_values
from silverray.shard.schema.schema import Schema

WRITTEN_BLOCK = 1_000
"""Written rows that become a column at a time."""
PAUSE_S = 0.0002
"""Rest after each of them, so that a search which waits for Python's lock gets it."""

Row = Mapping[str, Any]
"""Values of one item by column."""


class Payload:
    """Stored columns in slot order, and the rows that were written since.

    Args:
        table: one row a slot; has the id column when ids are strings.
        keys: `[N]` int64 item keys.
        id_column: name of the id column in `table`, or None when the keys are the ids.

    Attributes:
        slot_keys: `keys`, as they are now.
        names: the columns of `table`.
    """

    def __init__(self, table: pa.Table, keys: NDArray[np.int64], id_column: str | None) -> None:
        self._table = table.combine_chunks()
        self.slot_keys = keys
        self._index = KeySlots(keys)
        self._id_column = id_column
        self.names: list[str] = table.column_names
        self._written: dict[int, Row] = {}
        self._is_written = np.zeros(len(keys), dtype=np.bool_)

    @property
    def written(self) -> int:
        """How many rows were written one by one."""
        return len(self._written)

    def ids(self, slots: NDArray[np.int64]) -> NDArray[np.int64] | list[str]:
        """Ids of slots: `[m]` int64, or m strings."""
        if self._id_column is None:
            return self.slot_keys[slots]
        return self._values(self._id_column, slots)

    def keys(self, slots: NDArray[np.int64]) -> NDArray[np.int64]:
        """Keys of slots: `[m]` int64."""
        return self.slot_keys[slots]

    def slots(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots of items: `[m]` int64; -1 for keys of no item."""
        return self._index.find(keys)

    def fields(self, names: Sequence[str], slots: NDArray[np.int64]) -> dict[str, list[Any]]:
        """Values of payload fields as JSON values (dates as ISO text, missing as None), one list of m a field."""
        return {name: self._values(name, slots) for name in names}

    def text_bytes(self, names: Sequence[str], slots: NDArray[np.int64]) -> int:
        """At least how many bytes `fields` takes on the wire, known without building it."""
        written = [self._written[slot] for slot in slots[self._is_written[slots]].tolist()]
        size = 0
        for name in names:
            stored = ~self._is_written[slots]
            stored[~stored] = [name not in row for row in written]
            size += int(text_sizes(self._table.column(name), slots[stored]).sum())
            size += sum(value_size(row.get(name)) for row in written)
        return size

    def place(
        self, keys: NDArray[np.int64], slots: NDArray[np.int64], freed: NDArray[np.int64], gone: NDArray[np.int64]
    ) -> None:
        """Note which items slots `[m]` hold now, that other slots hold none, and which items are no more, by key."""
        self.slot_keys[freed] = FREE
        self.slot_keys[slots] = keys
        for key, slot in zip(keys.tolist(), slots.tolist(), strict=True):
            self._index.move(key, slot)
        self._index.forget(gone)

    def write(self, rows: Mapping[int, Row], changed: Mapping[int, Row]) -> None:
        """Write rows to slots: whole ones, and new values of those that stay."""
        self._written.update(rows)
        # A new row rather than a longer one: a compaction may be reading it.
        self._written.update({slot: {**self._written.get(slot, {}), **row} for slot, row in changed.items()})
        self._is_written[[*rows, *changed]] = True

    def forget(self, slots: Sequence[int]) -> None:
        """Drop the rows that were written to slots which no longer hold an item."""
        for slot in slots:
            self._written.pop(slot, None)
        self._is_written[list(slots)] = False

    def let_go(self) -> None:
        """Forget all written rows before the payload itself is given up: freed at once, they would hold everyone up."""
        while self._written:
            for _ in range(min(WRITTEN_BLOCK, len(self._written))):
                self._written.popitem()
            time.sleep(PAUSE_S)

    def arranged(self, sources: NDArray[np.int64], slots: NDArray[np.int64], keys: NDArray[np.int64]) -> Payload:
        """Make a payload of other slots, all rows of which are in its table.

        Args:
            sources: `[m]` int64 slots of this payload.
            slots: `[m]` int64, where their rows go.
            keys: `[N]` int64 keys of the other payload's slots.

        Raises:
            ArrowInvalid: a written value does not fit the type of its column.
        """
        columns = [self._spread(name, sources, slots, len(keys)) for name in self.names]
        return Payload(pa.table(columns, schema=self._table.schema), keys, self._id_column)

    def still(self) -> Payload:
        """The same payload, whatever is written from now on."""
        still = copy.copy(self)
        still._written = self._written.copy()
        return still

    def _spread(self, name: str, sources: NDArray[np.int64], slots: NDArray[np.int64], width: int) -> pa.ChunkedArray:
        """One column of `arranged`."""
        column, rows = self._table.column(name), np.arange(len(self.slot_keys))
        chunks, count, written = [*column.chunks], len(rows), iter(self._written.items())
        # A list of them all would have Python look for garbage among all that the process holds, for 0.2 s.
        while block := list(islice(written, WRITTEN_BLOCK)):
            mine = [(slot, row[name]) for slot, row in block if name in row]
            rows[[slot for slot, _ in mine]] = count + np.arange(len(mine))
            chunks.append(pa.array([value for _, value in mine], column.type))
            count += len(mine)
            time.sleep(PAUSE_S)
        whole = pa.chunked_array(chunks, column.type).combine_chunks()
        return whole.take(spread_index(rows[sources], slots, width))

    def _values(self, name: str, slots: NDArray[np.int64]) -> list[Any]:
        """Values as JSON values."""
        values = json_values(self._table.column(name).take(pa.array(slots)))
        for place in np.flatnonzero(self._is_written[slots]).tolist():
            row = self._written[int(slots[place])]
            if name in row:
                values[place] = json_value(row[name])
        return values


def spread_index(sources: NDArray[np.int64], slots: NDArray[np.int64], width: int) -> pa.Array:
    """What to take so that rows `sources` come to slots of `width`, and the others are null."""
    places, free = np.zeros(width, dtype=np.int64), np.ones(width, dtype=np.bool_)
    places[slots], free[slots] = sources, False
    return pa.array(places, mask=free)


def widen(table: pa.Table, schema: Schema) -> pa.Table:
    """Give columns the types of `ARROW_TYPES`, so that any value of the schema can be written to them.

    Publishing does so too; older versions kept the types that columns were given with.

    Raises:
        SnapshotError: a column holds what no write could say; the message names it.
    """
    types = {name: ARROW_TYPES[field.type] for name, field in schema.fields.items()} | {schema.id: pa.large_string()}
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        try:
            columns[name] = (_whole_days(column) if pa.types.is_date64(column.type) else column).cast(types[name])
        except pa.ArrowInvalid as error:
            raise SnapshotError(f"column {name}: takes no live writes, publish the items again: {error}") from None
    return pa.table(columns) if columns else table


def _whole_days(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dates without their times of day, which answers leave out too."""
    return column.cast(pa.timestamp("ms")).cast(pa.date32())
