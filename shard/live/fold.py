"""Folding: the rows that a catalog was published from, and what writes have made of them.

Letters: N rows, S of them stay, W are written, M rows afterwards, D dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from silverray.shard.api import ItemId
from silverray.shard.index.key_index import FREE, Ints, KeySlots
from silverray.shard.live.adapting import FieldsOnly, WriteAdapter
from silverray.shard.live.changes import key_of, put
from silverray.shard.live.checks import WriteError
from silverray.shard.live.outcome import Outcome
from silverray.shard.live.writes import Delete, Patch, Upsert, Write
from silverray.shard.publish.source import read_source
from silverray.shard.publish.vectors import ItemVectors
from silverray.shard.schema.schema import Schema
from silverray.shard.schema.vectors import faults

_BLOCK = 65_536
"""Rows whose old vectors are copied at a time: at 128 dimensions 32 MiB beside the new array; without blocks all old
vectors would be in memory twice."""

_CHANGES = {"replaced", "patched", "fields_only"}

_Placed = tuple[int, Upsert | Patch]
"""A write that makes or changes an item, and the item's row; `FREE` if there is none yet."""


class Folded(NamedTuple):
    """Rows with writes folded in.

    Attributes:
        items: M rows: the id column and those of the schema, in types that hold every value of it.
        vectors: `[M, D]` float32.
        outcome: what the writes did.
        refusal: why a write was left out, the last time that one was; None if none was.
    """

    items: pa.Table
    vectors: NDArray[np.float32]
    outcome: Outcome
    refusal: str | None


def fold(
    items: pa.Table, schema: Schema, vectors: NDArray[np.float32] | None, writes: Iterable[Write], space: str
) -> Folded:
    """Apply writes to the rows of a catalog, as the shards that serve it do.

    A version that is published from the result holds what such shards have come to: the same items, with the same
    vectors and values bit for bit.

    Args:
        items: as for `publish`.
        schema: likewise; it need not be that of the day the writes were logged.
        vectors: likewise.
        writes: those since the rows, in the log's order.
        space: the vector space of the rows.

    Raises:
        ValueError: the rows are not good; the message names column and row.

    Cost:
        A copy of the rows and their vectors. As Python's objects, the last write to each item and a field at a time
        of those that are written; with the bodies of the log that they stand in.
    """
    source = read_source(items, schema, vectors)
    rows = _Rows(source.keys, source.items, source.vectors)
    adapter, metric = WriteAdapter(schema, source.id_type, space), schema.vector.metric
    outcome, refused, refusal = Outcome(), 0, None
    left: dict[int, Write] = {}
    for write in writes:
        try:
            taken = adapter.adapt(write)
            if isinstance(taken, Upsert):  # its vector may have been good where the metric was another
                for fault in faults(taken.vector[None], metric).values():
                    raise WriteError("invalid_vector", f"vector: {fault}")
        except WriteError as error:
            refused, refusal = refused + 1, f"item {write.id!r}: {error}"
            continue
        key = key_of(taken.id)
        if left.get(key, taken).id != taken.id:
            rows, did = _apply(rows, left, schema)
            outcome, left = outcome.plus(did), {}
        put(left, key, taken)
    rows, did = _apply(rows, left, schema)
    return Folded(rows.items, rows.vectors.given, outcome.plus(did).plus(Outcome(refused=refused)), refusal)


class _Rows(NamedTuple):
    """Rows on their way, and their keys `[N]`."""

    keys: Ints
    items: pa.Table
    vectors: ItemVectors


def _apply(rows: _Rows, writes: Mapping[int, Write], schema: Schema) -> tuple[_Rows, Outcome]:
    """Apply merged writes, by key: changed rows stay where they are, new ones come behind the others."""
    places = KeySlots(rows.keys).find(np.fromiter(writes, dtype=np.int64))
    there = places[places != FREE]
    ids = dict(zip(there.tolist(), _values(rows.items.column(schema.id), there), strict=True))
    counts = dict.fromkeys(Outcome._fields, 0)
    gone: list[int] = []
    changed: list[_Placed] = []
    new: list[_Placed] = []
    for place, write in zip(places.tolist(), writes.values(), strict=True):
        effect = _effect(write, ids.get(place))
        counts[effect] += 1
        if isinstance(write, Delete):
            gone += [place] if effect == "deleted" else []
        elif effect in _CHANGES:
            changed.append((place, write))
        elif effect == "inserted":
            new.append((place, write))
    stay = np.delete(np.arange(len(rows.keys)), np.array(gone, dtype=np.int64))
    written = [*changed, *new]
    targets = np.concatenate([np.searchsorted(stay, _places(changed)), len(stay) + np.arange(len(new))])
    sources = np.concatenate([stay, _places(new)])
    sources[targets] = len(rows.keys) + np.arange(len(written))
    columns = {}
    for name, column in zip(rows.items.column_names, rows.items.columns, strict=True):
        values = [write.id for _, write in written] if name == schema.id else _written_values(name, column, written)
        whole = pa.chunked_array([*column.chunks, pa.array(values, column.type)], column.type).combine_chunks()
        columns[name] = whole.take(pa.array(sources))
    keys = np.concatenate([rows.keys[stay], np.array([key_of(write.id) for _, write in new], dtype=np.int64)])
    vectors = ItemVectors(_vectors(rows.vectors, stay, targets, written), schema.vector.metric)
    return _Rows(keys, pa.table(columns), vectors), Outcome(**counts)


def _effect(write: Write, there: ItemId | None) -> str:
    """What a write does to the item with its key, counted by that name in `Outcome`; `there` is that item's id."""
    match write:
        case _ if there is not None and there != write.id:
            return "key_collision"
        case Upsert():
            return "inserted" if there is None else "replaced"
        case FieldsOnly():
            return "other_space" if there is None else "fields_only"
        case Delete():
            return "unknown" if there is None else "deleted"
    return "unknown" if there is None else "patched"


def _places(placed: Sequence[_Placed]) -> Ints:
    return np.array([place for place, _ in placed], dtype=np.int64)


def _values(column: pa.ChunkedArray, rows: Ints) -> list[Any]:
    values: list[Any] = column.take(pa.array(rows)).to_pylist()
    return values


def _written_values(name: str, column: pa.ChunkedArray, written: Sequence[_Placed]) -> list[Any]:
    """A field's values of the W items: those of a patch that does not name it are what they were."""
    kept = _places(
        [(place, write) for place, write in written if isinstance(write, Patch) and name not in write.fields]
    )
    old = dict(zip(kept.tolist(), _values(column, kept), strict=True))
    return [old[place] if place in old else write.fields.get(name) for place, write in written]


def _vectors(old: ItemVectors, stay: Ints, targets: Ints, written: Sequence[_Placed]) -> NDArray[np.float32]:
    """Vectors of the S rows, then of new ones, `[M, D]`; those that were written, at their targets `[W]`."""
    inserted = np.count_nonzero(targets >= len(stay))
    vectors = np.empty((len(stay) + inserted, old.dimension), dtype=np.float32)
    for start in range(0, len(stay), _BLOCK):
        block = slice(start, min(start + _BLOCK, len(stay)))
        vectors[block] = old.rows(stay[block]).numpy()
    for target, (_, write) in zip(targets.tolist(), written, strict=True):
        if isinstance(write, Upsert):
            vectors[target] = write.vector
    return vectors
