"""Stored values of the filterable fields, as tensors; `silverray.shard.schema.arrow` reads them from tables.

Letters: n items, z tag values in all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:  # the benchmark of GPU kernels does without Pydantic
    from silverray.shard.schema.schema import Schema


class ColumnError(ValueError):
    """A column does not hold what the schema says; the message names the column and, if any, the row."""


@dataclass(frozen=True, slots=True)
class Column:
    """The values of one field.

    Attributes:
        values: `[n]`, or `[z]` for tags; float64 for float, else int64: text hashes for category and tags,
            days since 1970-01-01 for date, 0 or 1 for bool. 0 where the value is missing.
        present: `[n]` bool, false where the value is missing; None for a field that is not nullable.
        offsets: `[n + 1]` int64 for tags: item i has `values[offsets[i] : offsets[i + 1]]`; None otherwise.
        ends: `[n]` int64 for tags that can be changed: item i has `values[offsets[i] : ends[i]]`, wherever that is, and
            `offsets` is `[n]`; None otherwise.
    """

    values: Tensor
    present: Tensor | None = None
    offsets: Tensor | None = None
    ends: Tensor | None = None

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that there are, by attribute name."""
        parts = {"values": self.values, "present": self.present, "offsets": self.offsets, "ends": self.ends}
        return {name: part for name, part in parts.items() if part is not None}

    def to(self, device: torch.device | str) -> Column:
        """Copy to a device."""
        return Column(**{name: part.to(device) for name, part in self.to_tensors().items()})

    def take(self, index: Tensor) -> Column:
        """Gather the items `index`, `[m]` int64."""
        # On a CPU `index_select` takes an eighth of the time of `[index]`.
        present = None if self.present is None else self.present.index_select(0, index)
        if self.offsets is None:
            return Column(self.values.index_select(0, index), present)
        ragged = self.tags_of(index)
        return Column(self.values.index_select(0, ragged.values), present, ragged.offsets)

    def tags_of(self, index: Tensor) -> Ragged:
        """Find the tags of the items `index`, `[m]` int64."""
        assert self.offsets is not None, "only tags have offsets"
        starts = self.offsets[index]
        lengths = (self.offsets[index + 1] if self.ends is None else self.ends[index]) - starts
        ends = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        rows = torch.repeat_interleave(torch.arange(len(index), device=index.device), lengths)
        places = torch.arange(len(rows), device=index.device)
        return Ragged(ends, rows, (starts - ends[:-1])[rows] + places)

    def spread(self, slots: Tensor, width: int, spare: int) -> Column:
        """Put the items into slots `[n]` of `width`, in a form that can be changed.

        Slots without an item have the value 0, as if it were missing. Behind the tags there is room for `spare` more.
        """

        def scatter(part: Tensor) -> Tensor:
            return part.new_zeros(width).index_copy_(0, slots, part)

        present = None if self.present is None else scatter(self.present)
        if self.offsets is None:
            return Column(scatter(self.values), present)
        room = torch.cat([self.values, self.values.new_zeros(spare)])
        return Column(room, present, scatter(self.offsets[:-1]), scatter(self.offsets[1:]))


@dataclass(frozen=True, slots=True)
class Ragged:
    """Where the tags of m items lie.

    Attributes:
        offsets: `[m + 1]` int64, the items' own offsets.
        rows: `[y]` int64, the item, 0 to m-1, of each tag.
        values: `[y]` int64, the place of each tag among all values.
    """

    offsets: Tensor
    rows: Tensor
    values: Tensor


@dataclass(frozen=True, slots=True)
class Columns:
    """The values of every filterable field of n items.

    Attributes:
        items: n.
        fields: one column per filterable field, in the schema's order.
    """

    items: int
    fields: Mapping[str, Column]

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], schema: Schema) -> Columns:
        """Undo `to_tensors`; raises KeyError where a tensor that the schema asks for is absent."""
        fields = {}
        for name, field in schema.filterable.items():
            parts = ["values"]
            parts += ["present"] if field.nullable else []
            parts += ["offsets"] if field.type == "tags" else []
            fields[name] = Column(**{part: tensors[f"{name}.{part}"] for part in parts})
        return cls(int(tensors["items"]), fields)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return all tensors under flat names such as `year.values`, and `items` (`[1]` int64, n)."""
        tensors = {"items": torch.tensor([self.items])}
        for name, column in self.fields.items():
            tensors |= {f"{name}.{part}": tensor for part, tensor in column.to_tensors().items()}
        return tensors

    def to(self, device: torch.device | str) -> Columns:
        """Copy to a device."""
        return Columns(self.items, {name: column.to(device) for name, column in self.fields.items()})

    def take(self, index: Tensor) -> Columns:
        """Gather items.

        Args:
            index: `[m]` int64 places, in any order, on the columns' device.

        Returns:
            The columns of those m items.
        """
        return Columns(len(index), {name: column.take(index) for name, column in self.fields.items()})

    def spread(self, slots: Tensor, width: int, spare: int) -> Columns:
        """Put the items into slots, in a form that can be changed.

        Args:
            slots: `[n]` int64, the slot of each item, none twice.
            width: number of slots.
            spare: tags that each field has room for beside those that there are.

        Returns:
            Columns of `width` items; those of slots without an item have no value.
        """
        return Columns(width, {name: column.spread(slots, width, spare) for name, column in self.fields.items()})

    @staticmethod
    def concat(parts: Sequence[Columns]) -> Columns:
        """Put the items of one or more columns of the same fields behind each other."""
        names = parts[0].fields
        fields = {name: _concat([part.fields[name] for part in parts]) for name in names}
        return Columns(sum(part.items for part in parts), fields)


def _concat(columns: Sequence[Column]) -> Column:
    tensors = {}
    for name in columns[0].to_tensors():
        tensors[name] = torch.cat([getattr(column, name) for column in columns])
    if "offsets" in tensors:
        lengths = torch.cat([column.to_tensors()["offsets"].diff() for column in columns])
        tensors["offsets"] = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return Column(**tensors)
