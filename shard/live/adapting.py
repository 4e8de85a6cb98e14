"""What a version takes of a log, whose writes were checked against the schema of their day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from silverray.shard.live.checks import WriteError, check_value
from silverray.shard.live.writes import Delete, Patch, Write
from silverray.shard.schema.values import TYPES

if TYPE_CHECKING:
    from silverray.shard.schema.schema import Schema
    from silverray.shard.snapshot.catalog import IdType


@dataclass(frozen=True, slots=True)
class FieldsOnly(Patch):
    """An upsert without its vector, which is of another space: it changes an item that is there, and inserts none."""


class WriteAdapter:
    """Adapts writes to the schema of a version.

    Whatever the schema was when they were logged: fields that this version has not are passed over, values of other
    types are taken where a client might send them so today, vectors of other spaces are left out.

    Args:
        schema: of the version.
        id_type: of its ids.
        space: its vector space.
    """

    def __init__(self, schema: Schema, id_type: IdType, space: str) -> None:
        self._schema = schema
        self._id = int if id_type == "int" else str
        self._space = space
        self._shape = (schema.vector.dimension,)
        self._rules = {name: (TYPES[field.type][0], field.nullable) for name, field in schema.fields.items()}
        self._missing = dict.fromkeys(name for name, field in schema.fields.items() if field.nullable)

    def adapt(self, write: Write) -> Write:
        """A write as this version applies it.

        Raises:
            WriteError: it cannot be applied.
        """
        if type(write.id) is not self._id:
            got = type(write.id).__name__
            raise WriteError("invalid_id", f"id: expected {self._id.__name__}, got {got}")
        if isinstance(write, Delete):
            return write
        names = write.fields if isinstance(write, Patch) else self._rules
        if odd := self._odd(write.fields, names):
            values = {name: check_value(write.fields.get(name), name, self._schema.fields[name]) for name in odd}
            write = replace(write, fields={**write.fields, **values})
        if isinstance(write, Patch):
            return write
        if write.space not in ("", self._space):
            return FieldsOnly(write.id, {**self._missing, **write.fields})
        if write.vector.shape != self._shape:
            shape = list(write.vector.shape)
            raise WriteError("invalid_vector", f"vector: expected [{self._shape[0]}] numbers, got {shape}")
        return write

    def _odd(self, fields: Mapping[str, Any], names: Mapping[str, Any]) -> Sequence[str]:
        """Those of the fields `names` whose values are not in the form of this schema."""
        odd = []
        for name in names:
            if (rule := self._rules.get(name)) is None:
                continue
            value = fields.get(name)
            if value.__class__ is not rule[0] and (value is not None or not rule[1]):
                odd.append(name)
        return odd
