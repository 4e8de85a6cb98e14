"""Edits: rows to be copied into the arrays of a shard, all at once.

Letters: U items written whole, F slots left free, G items deleted, D dimensions, R planes, P of them, X words, n items
of a column.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from silverray.shard.index.inverted_lists import InvertedLists
from silverray.shard.index.key_index import Ints
from silverray.shard.index.payload import Row
from silverray.shard.schema.columns import Column, Columns


class PlaneEdit(NamedTuple):
    """New bits of some slots in some planes, which lie side by side.

    Attributes:
        first: the first of these planes.
        words: `[X]` int64, the words that hold the slots.
        keep: `[X]` int64, the bits of other slots in those words.
        bits: `[P, X]` int64, the new bits.
    """

    first: int
    words: Tensor
    keep: Tensor
    bits: Tensor

    @classmethod
    def of(cls, slots: Ints, rows: Tensor, planes: range) -> PlaneEdit:
        """Turn the bits of items, `[m, words_for(R)]` int64 as `PlaneLayout.encode` makes them, into words of planes.

        Args:
            slots: `[m]` int64, the items' slots, none twice, at least one.
            rows: their bits.
            planes: the P planes to write.
        """
        order = np.argsort(slots)
        words, starts = np.unique(slots[order] >> 6, return_index=True)
        ones = np.uint64(1) << (slots[order] & 63).astype(np.uint64)
        octets = np.ascontiguousarray(rows.numpy()[order]).view(np.uint8)
        octets = octets[:, planes.start // 8 : -(-planes.stop // 8)]
        within = slice(planes.start % 8, planes.start % 8 + len(planes))
        items = np.unpackbits(octets, axis=1, bitorder="little")[:, within].T * ones
        touched, bits = (np.bitwise_or.reduceat(part, starts, axis=-1) for part in (ones, items))
        return cls(planes.start, *(torch.from_numpy(part.view(np.int64)) for part in (words, ~touched, bits)))

    def apply(self, planes: Tensor) -> None:
        """Write the bits."""
        words, keep, bits = (part.to(planes.device) for part in (self.words, self.keep, self.bits))
        mine = planes[self.first : self.first + len(bits)]
        mine.index_copy_(1, words, mine.index_select(1, words) & keep | bits)


class ColumnEdit(NamedTuple):
    """New values of some slots in one column.

    Attributes:
        slots: `[n]` int64.
        column: the values, `offsets` of tags counting from `place`.
        place: where new tags go among all.
        room: a longer array for all tags, the old ones copied, where they do not fit any more.
    """

    slots: Tensor
    column: Column
    place: int = 0
    room: Tensor | None = None

    def apply(self, column: Column) -> Column:
        """Write the values; returns the column that holds them."""
        device = column.values.device
        slots, new = self.slots.to(device), self.column.to(device)
        if column.present is not None and new.present is not None:
            column.present.index_copy_(0, slots, new.present)
        if column.offsets is None or column.ends is None or new.offsets is None:
            column.values.index_copy_(0, slots, new.values)
            return column
        values = column.values if self.room is None else self.room
        values[self.place : self.place + len(new.values)] = new.values
        column.offsets.index_copy_(0, slots, new.offsets[:-1] + self.place)
        column.ends.index_copy_(0, slots, new.offsets[1:] + self.place)
        return Column(values, column.present, column.offsets, column.ends)


class Edit(NamedTuple):
    """All that a run of writes changes in a shard's arrays.

    Attributes:
        slots: `[U]` int64.
        keys: `[U]` int64.
        codes: `[U, D]` int8.
        scales: `[U]` float32.
        vectors: `[U, D]`, of the item cache's type.
        freed: `[F]` int64 slots.
        gone: `[G]` int64 keys of items that are no more.
        planes: bits of slots that change.
        columns: by field.
        rows: all of the payload of the U items, by slot.
        changed: new values of other payload, by slot and field.
        items: how many items there are then.
        curve: the planner's `curve` for as many; None if there were as many before.
    """

    slots: Tensor
    keys: Tensor
    codes: Tensor
    scales: Tensor
    vectors: Tensor
    freed: Tensor
    gone: Tensor
    planes: Sequence[PlaneEdit]
    columns: Mapping[str, Sequence[ColumnEdit]]
    rows: Mapping[int, Row]
    changed: Mapping[int, Row]
    items: int
    curve: Tensor | None

    def apply(self, lists: InvertedLists) -> None:
        """Write the arrays; no search may be going on."""
        device = lists.keys.device
        for array, rows in (
            (lists.codes, self.codes),
            (lists.scales, self.scales),
            (lists.vectors, self.vectors),
            (lists.keys, self.keys),
        ):
            array.index_copy_(0, self.slots.to(array.device), rows.to(array))
        lists.keys.index_fill_(0, self.freed.to(device), -1)
        for planes in self.planes:
            planes.apply(lists.planes)
        changed = {}
        for name, edits in self.columns.items():
            column = lists.columns.fields[name]
            for edit in edits:
                column = edit.apply(column)
            changed[name] = column
        lists.columns = Columns(lists.columns.items, {**lists.columns.fields, **changed})
        lists.items = self.items
