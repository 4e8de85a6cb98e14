"""The assignment of planes to fields: chosen at publish from the catalog, then frozen with the snapshot.

Letters: n items, R planes, W = ceil(R / 64) words of an item's bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silverray.shard.filter.planes import (
    MOST_ROWS,
    BooleanPlanes,
    ExactPlanes,
    HashedPlanes,
    Ints,
    Planes,
    SlicedPlanes,
    choose_hashed,
    choose_sliced,
    float_numbers,
)
from silverray.shard.filter.planes_check import planes_fault
from silverray.shard.schema.columns import Column, Columns
from silverray.shard.schema.keys import hash_text
from silverray.shard.schema.schema import Field, Schema

LIVE = 0
"""The plane that says which slots hold an item."""

MAX_EXACT_VALUES = 256
"""Most distinct values for which a category or tags field gets one plane a value: 32 bytes an item. A hashed group
takes 2, and is verified."""


class PlaneSummary(NamedTuple):
    """What planes a field has, for a table; `rows` (M), `per_term` (K) and `fpr` are those of its hashed group."""

    field: str
    kind: str
    planes: int
    rows: int | None
    per_term: int | None
    fpr: float | None


@dataclass(frozen=True, slots=True)
class FieldPlanes:
    """The planes of one field: those of its values, and `has`, set where there is a value (nullable fields only)."""

    planes: Planes
    has: int | None

    @property
    def span(self) -> range:
        """All its planes, which lie side by side."""
        first = self.planes.first if self.has is None else self.has
        return range(first, self.planes.first + self.planes.count)


@dataclass(frozen=True, slots=True)
class PlaneLayout:
    """Which plane means what.

    Attributes:
        rows: R, the number of planes.
        fields: the planes of each filterable field, in the schema's order. Plane 0 is `live`.
    """

    rows: int
    fields: Mapping[str, FieldPlanes]

    @classmethod
    def choose(cls, schema: Schema, columns: Columns, target_fpr: float = 0.01) -> PlaneLayout:
        """Choose the planes for a catalog.

        Args:
            schema: the catalog's schema.
            columns: all its items.
            target_fpr: false-positive rate of one hashed term that the hashed groups are chosen for, in (0, 1).

        Returns:
            A layout that depends on nothing but the arguments.
        """
        if not 0 < target_fpr < 1:
            raise ValueError(f"target_fpr: expected a rate between 0 and 1, got {target_fpr}")
        rows, fields = LIVE + 1, {}
        for name, field in schema.filterable.items():
            has = rows if field.nullable else None
            rows += field.nullable
            planes = _choose_planes(rows, name, field, columns.fields[name], target_fpr)
            rows += planes.count
            fields[name] = FieldPlanes(planes, has)
        return cls(rows, fields)

    def encode(self, columns: Columns) -> Tensor:
        """Write items into planes; values that the layout did not see at publish are written properly too.

        Args:
            columns: n items on the CPU.

        Returns:
            `[n, W]` int64, one row an item: bit r % 64 of word r // 64 is plane r. `live` is set; the planes of fields
            that the columns lack are not.
        """
        bits: NDArray[np.uint64] = np.zeros((columns.items, -(-self.rows // 64)), dtype=np.uint64)
        bits[:, LIVE >> 6] |= np.uint64(1 << (LIVE & 63))
        for name, column in columns.fields.items():
            field = self.fields[name]
            if field.has is not None:
                assert column.present is not None
                word, bit = divmod(field.has, 64)
                bits[:, word] |= column.present.numpy().astype(np.uint64) << np.uint64(bit)
            field.planes.write(bits, *_numbers(column))
        return torch.from_numpy(bits.view(np.int64))

    def describe(self) -> list[PlaneSummary]:
        """List the fields and their planes."""
        summaries = [PlaneSummary("live", "live", 1, None, None, None)]
        for name, field in self.fields.items():
            planes = field.planes
            group = planes.other if isinstance(planes, ExactPlanes) else planes
            hashed = group if isinstance(group, HashedPlanes) else None
            m, k, fpr = (hashed.count, hashed.blocks, hashed.fpr) if hashed else (None, None, None)
            count = planes.count + (field.has is not None)
            summaries.append(PlaneSummary(name, planes.kind, count, m, k, fpr))
        return summaries

    def to_json(self) -> dict[str, Any]:
        """Return the layout as plain lists, dicts and numbers."""
        fields = {
            name: {"kind": field.planes.kind, "has": field.has} | asdict(field.planes)
            for name, field in self.fields.items()
        }
        return {"rows": self.rows, "fields": fields}

    def check(self, schema: Schema) -> Self:
        """Check a layout that was read: every field's planes are of its type and follow those of the field before.

        Raises:
            ValueError: they do not; the message names the field.
        """
        if list(self.fields) != list(schema.filterable):
            raise ValueError(f"fields: expected {', '.join(schema.filterable) or 'none'}")
        rows = LIVE + 1
        for name, field in schema.filterable.items():
            mine = self.fields[name]
            if mine.has != (rows if field.nullable else None):
                raise ValueError(f"fields.{name}.has: expected {rows if field.nullable else None}, got {mine.has}")
            fault = planes_fault(mine.planes, rows + field.nullable, field.type)
            if fault:
                raise ValueError(f"fields.{name}.{fault}")
            rows += field.nullable + mine.planes.count
        if not rows == self.rows <= MOST_ROWS:
            raise ValueError(f"rows: expected {rows}, at most {MOST_ROWS}, got {self.rows}")
        return self

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PlaneLayout:
        """Undo `to_json`."""
        fields = {}
        for name, entry in data["fields"].items():
            values = {key: value for key, value in entry.items() if key not in ("kind", "has")}
            fields[name] = FieldPlanes(_planes_from_json(entry["kind"], values), entry["has"])
        return cls(data["rows"], fields)


def _planes_from_json(kind: str, data: dict[str, Any]) -> Planes:
    match kind:
        case HashedPlanes.kind:
            return HashedPlanes(**data)
        case ExactPlanes.kind:
            return ExactPlanes(data["first"], tuple(data["values"]), HashedPlanes(**data["other"]))
        case SlicedPlanes.kind:
            return SlicedPlanes(**data)
        case BooleanPlanes.kind:
            return BooleanPlanes(**data)
    raise ValueError(f"unknown kind of planes: {kind!r}")


def _numbers(column: Column) -> tuple[Ints, Ints]:
    """List the values that there are as (items, int64 values)."""
    values = column.values.numpy()
    if column.offsets is not None:
        return np.repeat(np.arange(len(column.offsets) - 1), column.offsets.diff().numpy()), values
    numbers: Ints = float_numbers(values) if values.dtype == np.float64 else values
    if column.present is None:
        return np.arange(len(numbers)), numbers
    items = np.flatnonzero(column.present.numpy())
    return items, numbers[items]


def _choose_planes(first: int, name: str, field: Field, column: Column, target_fpr: float) -> Planes:
    items, numbers = _numbers(column)
    match field.type:
        case "bool":
            return BooleanPlanes(first)
        case "int" | "date" | "float":
            return choose_sliced(first, numbers, field.type == "float")
    salt = hash_text(name)
    dictionary = np.unique(numbers)
    if len(dictionary) <= MAX_EXACT_VALUES:
        other = choose_hashed(first + len(dictionary), salt, np.array([1]), target_fpr)
        return ExactPlanes(first, tuple(dictionary.tolist()), other)
    _, terms = np.unique(items, return_counts=True)
    return choose_hashed(first, salt, terms, target_fpr)
