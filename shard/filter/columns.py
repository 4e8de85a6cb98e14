"""Stored values of the filterable fields, as tensors.

Letters: n items, z tag values in all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pyarrow as pa

    from silverray.shard.filter.schema import Schema


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
    """

    values: Tensor
    present: Tensor | None = None
    offsets: Tensor | None = None

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that there are, by attribute name."""
        parts = {"values": self.values, "present": self.present, "offsets": self.offsets}
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
        ragged = ragged_index(self.offsets, index)
        return Column(self.values.index_select(0, ragged.values), present, ragged.offsets)


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


def ragged_index(offsets: Tensor, index: Tensor) -> Ragged:
    """Find the tags of the items `index`, `[m]` int64, where item i's begin at `offsets[i]`, `[n + 1]`."""
    starts = offsets[index]
    lengths = offsets[index + 1] - starts
    ends = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    rows = torch.repeat_interleave(torch.arange(len(index), device=index.device), lengths)
    places = torch.arange(len(rows), device=index.device)
    return Ragged(ends, rows, (starts - ends[:-1])[rows] + places)


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
    def from_arrow(cls, table: pa.Table, schema: Schema) -> Columns:
        """Read the filterable fields of a table, and check all fields.

        float columns may be narrower than 64 bits; their values are compared as the float64 that equals them.
        NaN is a missing value and -0.0 becomes 0.0.

        Args:
            table: a column per field of the schema; others are ignored.
            schema: what the columns must hold.

        Returns:
            Columns on the CPU, in the table's order.

        Raises:
            ColumnError: a column is absent or of another type, has a missing value though it is not nullable,
                an integer above int64, or two texts with one hash.
        """
        # Imported here because serving, which needs the other half of this module, does without Arrow.
        from silverray.shard.filter.arrow import read_columns

        return cls(table.num_rows, read_columns(table, schema))

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
