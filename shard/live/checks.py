"""Checks of writes: the rules that publishing holds a whole catalog to, for items that come one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isnan
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from silverray.shard.api import InvalidRequest, json_type
from silverray.shard.arguments import float32_array
from silverray.shard.hints import LONGEST, closest
from silverray.shard.live.writes import Patch, Upsert, Write
from silverray.shard.schema.accepted import EXPECTED, accept, misplaced_tag, utf8_bytes
from silverray.shard.schema.keys import MAX_ID_BYTES
from silverray.shard.schema.vectors import faults, to_unit_length
from silverray.shard.snapshot.manifest import MOST_NAME_BYTES

if TYPE_CHECKING:
    from silverray.shard.schema.schema import Field, Schema
    from silverray.shard.snapshot.catalog import Catalog, IdType

_LONGEST_INT_BITS = 2_048
"""Of an integer that a message shows: Python writes no longer ones than 4,300 digits, and that slowly."""


class WriteError(ValueError):
    """A write is wrong.

    Args:
        code: what kind of mistake it is, for a program.
        message: what was wrong, for a person; names the part of the item.
        field: the schema's field at fault, if it is one.
    """

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(code, message, field)
        self.code = code
        self.message = message
        self.field = field

    def __str__(self) -> str:
        return self.message


def check(writes: Sequence[Write], catalog: Catalog) -> list[Write | WriteError]:
    """Check writes against a catalog, and bring them into the one form that is logged and applied.

    In that form upserts name no missing value, a patch's None stands for every missing value, values have the one form
    of `accept`, and vectors of cosine catalogs have length 1. Vectors of another space than the catalog's stay as they
    are: how long they are and how they are compared, only versions of that space know.

    Args:
        writes: as a client made them; values may be whatever `accept` takes, and an empty vector space means the
            catalog's.
        catalog: whose schema, ids and vector space count.

    Returns:
        For each write its form, or what is wrong with it.
    """
    outcomes: list[Write | WriteError] = []
    for write in writes:
        try:
            outcomes.append(_checked(write, catalog))
        except WriteError as error:
            outcomes.append(error)
    upserts = {
        place: outcome
        for place, outcome in enumerate(outcomes)
        if isinstance(outcome, Upsert) and outcome.space == catalog.vector_space
    }
    vectors = _check_vectors([upsert.vector for upsert in upserts.values()], catalog)
    for (place, upsert), vector in zip(upserts.items(), vectors, strict=True):
        outcomes[place] = vector if isinstance(vector, WriteError) else replace(upsert, vector=vector)
    return outcomes


def _checked(write: Write, catalog: Catalog) -> Write:
    """All but the values of a vector."""
    _check_id(write.id, catalog.id_type)
    if isinstance(write, Upsert):
        write = replace(write, vector=_float32(write.vector))
        space = write.space or catalog.vector_space
        if space != catalog.vector_space:
            _check_elsewhere(space, write.vector)
        elif write.vector.shape != (catalog.dimension,):
            got = list(write.vector.shape)
            raise WriteError("invalid_vector", f"vector: expected [{catalog.dimension}] numbers, got {got}")
        return replace(write, fields=_whole(write.fields, catalog.schema), space=space)
    if isinstance(write, Patch):
        if not write.fields:
            raise WriteError("missing_field", "fields: expected at least one, got none")
        return replace(write, fields=_values(write.fields, catalog.schema))
    return write


def _check_id(key: object, id_type: IdType) -> None:
    if id_type == "int":
        if type(key) is not int or not 0 <= key < 2**63:
            raise WriteError("invalid_id", f"id: expected an integer from 0 to 2^63 - 1, got {_brief(key)}")
    elif not 1 <= utf8_bytes(key) <= MAX_ID_BYTES:
        raise WriteError("invalid_id", f"id: expected a string of 1 to {MAX_ID_BYTES} bytes, got {_brief(key)}")


def _whole(fields: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    values = {name: value for name, value in _values(fields, schema).items() if value is not None}
    for name, field in schema.fields.items():
        if name not in values and not field.nullable:
            raise WriteError("missing_field", f"fields.{name}: expected a value, the field is not nullable", name)
    return values


def _values(fields: Mapping[str, Any], schema: Schema) -> dict[str, Any]:
    if unknown := fields.keys() - schema.fields.keys():
        name = min(map(str, unknown))[:LONGEST]
        close = closest(name, schema.fields)
        hint = f"did you mean {close!r}?" if close else f"there are: {', '.join(schema.fields) or 'none'}"
        raise WriteError("unknown_field", f"fields: no field {name!r}; {hint}", name)
    return {name: check_value(value, name, schema.fields[name]) for name, value in fields.items()}


def check_value(value: object, name: str, field: Field) -> Any:
    """Check the value of a field.

    Returns:
        It, in its one form; None where it is missing.

    Raises:
        WriteError: it is none of the field's.
    """
    if value is None or (isinstance(value, float) and isnan(value)):
        if not field.nullable:
            raise WriteError("missing_field", f"fields.{name}: expected a value, the field is not nullable", name)
        return None
    accepted = accept(value, field.type)
    if accepted is None:
        got = _brief(value)
        if field.type == "tags" and isinstance(value, list):
            place = misplaced_tag(value)
            got += "" if place is None else f" with {_brief(value[place])} at [{place}]"
        raise WriteError("invalid_value", f"fields.{name}: expected {EXPECTED[field.type]}, got {got}", name)
    return accepted


def _brief(value: object) -> str:
    if value is None:
        return "null"
    if type(value) is int and value.bit_length() > _LONGEST_INT_BITS:
        return f"integer of {value.bit_length()} bits"
    if isinstance(value, (bool, int, float, str)):
        return f"{json_type(value)} {ascii(value[:60] if isinstance(value, str) else value)[:60]}"
    return json_type(value)


def _check_elsewhere(space: str, vector: NDArray[np.float32]) -> None:
    """Check a vector of a space that is not the catalog's."""
    if utf8_bytes(space) > MOST_NAME_BYTES:  # without a model, a version names its space
        message = f"space: expected a name of at most {MOST_NAME_BYTES} bytes, got {_brief(space)}"
        raise WriteError("invalid_space", message)
    if vector.ndim != 1 or not np.isfinite(vector).all() or not vector.any():
        raise WriteError("invalid_vector", "vector: expected finite numbers of float32, not all of them zero")


def _float32(vector: object) -> NDArray[np.float32]:
    try:
        return float32_array(vector, "vector")
    except InvalidRequest as error:
        raise WriteError("invalid_vector", str(error)) from None


def _check_vectors(vectors: Sequence[NDArray[np.float32]], catalog: Catalog) -> list[NDArray[np.float32] | WriteError]:
    """Check vectors `[D]` all at once, and scale those of cosine to length 1."""
    if not vectors:
        return []
    rows = np.stack(vectors)
    refused = faults(rows, catalog.metric)
    if catalog.metric == "cosine":
        good = np.delete(np.arange(len(rows)), list(refused))
        rows[good] = to_unit_length(rows[good])
    return [
        WriteError("invalid_vector", f"vector: {refused[n]}") if n in refused else row for n, row in enumerate(rows)
    ]
