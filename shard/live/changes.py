"""Changes: what a run of writes comes to, in the form in which a shard stores items.

Letters: U upserted, P patched items, D dimensions, W words of an item's bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silverray.shard.api import ItemId
from silverray.shard.live.adapting import FieldsOnly
from silverray.shard.live.writes import Delete, Patch, Upsert, Write
from silverray.shard.schema.columns import Columns
from silverray.shard.schema.keys import hash_text
from silverray.shard.schema.schema import Schema
from silverray.shard.schema.values import read_values
from silverray.shard.schema.vectors import faults, to_unit_length
from silverray.shard.snapshot.catalog import Catalog

Ints = NDArray[np.int64]
Keyed = tuple[int, Write]
"""A write and the key of its item."""


class Values(NamedTuple):
    """Some fields of some items.

    Attributes:
        columns: the filterable ones, as stored.
        payload: the values of those that replies show, by field; one an item.
    """

    columns: Columns
    payload: Mapping[str, list[Any]]

    @classmethod
    def of(cls, fields: Sequence[Mapping[str, Any]], names: Iterable[str], schema: Schema) -> Values:
        """Read the fields `names` of items; a field that an item does not mention is missing.

        Raises:
            ValueError: a value is of another type than the schema says, or missing where it cannot be.
        """
        given = {name: [values.get(name) for values in fields] for name in names}
        read = {name: read_values(name, values, schema.fields[name]) for name, values in given.items()}
        columns = Columns(len(fields), {name: read[name] for name in schema.filterable if name in read})
        return cls(columns, {name: values for name, values in given.items() if schema.fields[name].payload})


class Patches(NamedTuple):
    """New values of one field.

    Attributes:
        rows: which of the P patched items have one.
        values: of that field alone, in the order of `rows`.
    """

    rows: Ints
    values: Values


class Changes(NamedTuple):
    """What becomes of items, each named once.

    Attributes:
        ids: id by key, of all of them.
        deleted: keys.
        upserted: `[U]` int64 keys.
        vectors: `[U, D]` float32.
        values: all fields of the U items; none if there are no items.
        bits: `[U, W]` int64 filter bits of the U items.
        patched: `[P]` int64 keys.
        fields_only: `[P]` bool, which of these came with a vector of another space.
        patches: new values by field.
    """

    ids: Mapping[int, ItemId]
    deleted: Ints
    upserted: Ints
    vectors: Tensor
    values: Values
    bits: Tensor
    patched: Ints
    fields_only: NDArray[np.bool_]
    patches: Mapping[str, Patches]

    @classmethod
    def of(cls, writes: Mapping[int, Write], catalog: Catalog) -> Changes:
        """Bring merged writes into the form of a catalog's shards.

        Args:
            writes: by key; see `merge`.
            catalog: of the shard.

        Raises:
            ValueError: a vector has no cosine or is too long for inner products; or as `Values.of`.
        """
        upserts = {key: write for key, write in writes.items() if isinstance(write, Upsert)}
        patches = {key: write for key, write in writes.items() if isinstance(write, Patch)}
        vectors = np.empty((len(upserts), catalog.dimension), dtype=np.float32)
        with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and is refused as such
            for row, upsert in enumerate(upserts.values()):
                vectors[row] = upsert.vector
        for fault in faults(vectors, catalog.metric).values():  # logged while another space or metric was served
            raise ValueError(f"vector: {fault}")
        if upserts and catalog.metric == "cosine":
            vectors = to_unit_length(vectors)
        names = catalog.schema.fields if upserts else ()
        values = Values.of([upsert.fields for upsert in upserts.values()], names, catalog.schema)
        return cls(
            ids={key: write.id for key, write in writes.items()},
            deleted=_keys(key for key, write in writes.items() if isinstance(write, Delete)),
            upserted=_keys(upserts),
            vectors=torch.from_numpy(vectors),
            values=values,
            bits=catalog.layout.encode(values.columns),
            patched=_keys(patches),
            fields_only=np.fromiter((isinstance(patch, FieldsOnly) for patch in patches.values()), dtype=np.bool_),
            patches=_patches([patch.fields for patch in patches.values()], catalog.schema),
        )


def key_of(id_: ItemId) -> int:
    """The key of an item."""
    return id_ if isinstance(id_, int) else hash_text(id_)


def runs(writes: Iterable[Keyed]) -> Iterator[list[Keyed]]:
    """Cut writes by key, in their order, before each that names a key by another id than those before it."""
    run: list[Keyed] = []
    ids: dict[int, ItemId] = {}
    for key, write in writes:
        if ids.setdefault(key, write.id) != write.id:
            yield run
            run, ids = [], {key: write.id}
        run.append((key, write))
    if run:
        yield run


def merge(writes: Iterable[Keyed]) -> dict[int, Write]:
    """What is left of a run of writes when each item is changed once, by key."""
    left: dict[int, Write] = {}
    for key, write in writes:
        put(left, key, write)
    return left


def put(left: dict[int, Write], key: int, write: Write) -> None:
    """Merge one more write into what is left of those before it."""
    before = left.get(key)
    if isinstance(write, Patch) and before is not None:
        if isinstance(before, Delete):
            return
        whole = before if isinstance(before, (Upsert, FieldsOnly)) else write
        write = replace(whole, fields={**before.fields, **write.fields})
    left[key] = write


def _patches(patches: Sequence[Mapping[str, Any]], schema: Schema) -> dict[str, Patches]:
    found: dict[str, Patches] = {}
    for name in schema.fields:
        rows = [row for row, fields in enumerate(patches) if name in fields]
        if rows:
            found[name] = Patches(np.array(rows), Values.of([patches[row] for row in rows], [name], schema))
    return found


def _keys(keys: Iterable[int]) -> Ints:
    return np.fromiter(keys, dtype=np.int64)
