"""Writes: what changes a catalog, as values and as the bytes in which they travel and are logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import msgpack
import numpy as np
from numpy.typing import NDArray

from silverray.shard.api import ItemId
from silverray.shard.schema.days import from_days, to_days

FORMAT = 1
"""Goes up when the form of a record changes: a replica stops at a form that it does not know instead of guessing
(decision 11.3)."""
_UPSERT, _DELETE, _PATCH = range(3)
_DATE = 1
"""One of the 128 extension types that MessagePack leaves to applications. It stands in every log, so it stays."""


@dataclass(frozen=True, slots=True)
class Upsert:
    """A whole item, new or in place of the one with its id.

    Field values are those of JSON, dates apart: str for category, list of str for tags, int, float, bool, `date`.

    Attributes:
        id: of the item.
        vector: `[D]` float32.
        fields: value by field; a nullable field that is absent is missing.
        space: the vector space of `vector`, as a snapshot's `vector_space` names it.
    """

    id: ItemId
    vector: NDArray[np.float32]
    fields: Mapping[str, Any]
    space: str = ""


@dataclass(frozen=True, slots=True)
class Delete:
    """An item's end; nothing happens if there is none."""

    id: ItemId


@dataclass(frozen=True, slots=True)
class Patch:
    """New values for some fields of an item; nothing happens if there is none.

    Attributes:
        id: of the item.
        fields: value by field, as in `Upsert`; None makes it missing.
    """

    id: ItemId
    fields: Mapping[str, Any]


Write = Upsert | Delete | Patch


class Entry(NamedTuple):
    """A write in its place in the log; replicas apply entries in the order of their numbers, each once."""

    seq: int
    write: Write


def encode(writes: Sequence[Write]) -> bytes:
    """Encode checked writes.

    MessagePack: `[format, [write, ...]]`, a write being `[0, id, vector, fields, space]`, `[1, id]` or
    `[2, id, fields]`. A vector is a bin of little-endian float32, a date extension 1: little-endian int32 days since
    1970-01-01.
    """
    return bytes(msgpack.packb([FORMAT, [_row(write) for write in writes]], default=_pack_date))


def decode(body: bytes) -> list[Write]:
    """Undo `encode`; vectors are read-only views of the body.

    Raises:
        ValueError: the body is damaged, or of another format.
    """
    try:
        document = msgpack.unpackb(body, ext_hook=_unpack_date)
        if not isinstance(document, list) or document[:1] != [FORMAT]:
            raise ValueError(f"writes: expected format {FORMAT}, got {str(document)[:20]}")
        return [_write(*row) for row in document[1]]
    except (TypeError, LookupError, OverflowError) as error:
        raise ValueError(f"writes: damaged: {error}") from error


def _row(write: Write) -> list[Any]:
    match write:
        case Upsert():
            return [_UPSERT, write.id, write.vector.astype("<f4", copy=False).tobytes(), write.fields, write.space]
        case Delete():
            return [_DELETE, write.id]
        case Patch():
            return [_PATCH, write.id, write.fields]


def _write(kind: int, key: ItemId, *rest: Any) -> Write:
    if type(key) is str or (type(key) is int and 0 <= key < 2**63):
        match rest:
            case bytes(vector), dict(fields), str(space) if kind == _UPSERT:
                return Upsert(key, np.frombuffer(vector, "<f4").astype(np.float32, copy=False), fields, space)
            case () if kind == _DELETE:
                return Delete(key)
            case (dict(fields),) if kind == _PATCH:
                return Patch(key, fields)
    raise ValueError(f"writes: expected an upsert, a delete or a patch, got {str([kind, key, *rest])[:100]}")


def _pack_date(value: object) -> msgpack.ExtType:
    if type(value) is not date:
        raise TypeError(f"{type(value).__name__} is not written to the log")
    return msgpack.ExtType(_DATE, to_days(value).to_bytes(4, "little", signed=True))


def _unpack_date(code: int, data: bytes) -> date:
    if code != _DATE:
        raise ValueError(f"writes: extension type {code} is not read")
    return from_days(int.from_bytes(data, "little", signed=True))
