"""Loading: any set of partitions of a snapshot, merged into lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import torch
from torch import Tensor

from silverray.kernels.bits import transpose_bits, words_for
from silverray.kernels.rows import aligned_planes, empty_rows
from silverray.shard.api import SnapshotError
from silverray.shard.index.free_memory import free_bytes
from silverray.shard.index.inverted_lists import InvertedLists
from silverray.shard.index.memory import FreeBytes, MemoryPlan
from silverray.shard.index.packing import SlotPacking, count_spare_tags
from silverray.shard.index.payload import Payload, spread_index, widen
from silverray.shard.index.placement import Placement
from silverray.shard.schema.columns import Columns
from silverray.shard.schema.vectors import MAX_LENGTH, length_fault
from silverray.shard.snapshot.arrays import (
    read_columns,
    read_index,
    read_items,
    read_keys,
    read_payload,
    require_index_size,
)
from silverray.shard.snapshot.arrow_files import shared_text_bytes
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.snapshot.files import ITEMS, PAYLOAD, SnapshotFiles, partition_folder
from silverray.shard.snapshot.recall_curve import RecallCurve
from silverray.shard.threads import in_threads


class LoadedPartitions(NamedTuple):
    """Partitions in memory.

    Attributes:
        lists: what a search reads.
        payload: what a reply shows.
        curve: what the planner knows.
        memory: what it all takes.
    """

    lists: InvertedLists
    payload: Payload
    curve: RecallCurve
    memory: MemoryPlan


def load_partitions(
    files: SnapshotFiles,
    catalog: Catalog,
    partitions: Sequence[int],
    placement: Placement,
    free: FreeBytes = free_bytes,
    slack: float | None = None,
) -> LoadedPartitions:
    """Load partitions and merge their lists per cluster.

    Args:
        files: the snapshot.
        catalog: its catalog.
        partitions: which ones, each once.
        placement: where the lists go.
        free: says how many bytes are free on a device.
        slack: free slots for each item, for a shard that takes updates; None for one that does not.

    Returns:
        The merged partitions; items are in (cluster, key) order whatever the order of `partitions`.

    Raises:
        SnapshotError: a file is missing, altered or not what it must be, holds a vector that is too long for inner
            products (earlier releases took those), or there is no such partition; the message names it.
        ShardTooLarge: the partitions do not fit; nothing has been read of them.

    Cost:
        Beside what is returned, the `loading` of its plan.
    """
    require_index_size(files, catalog)
    memory = MemoryPlan.of(files, catalog, partitions, placement, slack)
    memory.require(free)
    index = read_index(files, catalog)
    parts = [read_keys(files, catalog, number) for number in partitions]
    keys, clusters = (torch.cat([part[name] for part in parts]) for name in ("keys", "clusters"))
    arrangement = SlotPacking.of(keys, clusters, catalog.clusters, slack)
    slots = torch.empty_like(arrangement.order)
    slots[arrangement.order] = arrangement.slots
    merged = _room(arrangement, catalog)

    def load(part: tuple[int, Tensor]) -> tuple[Columns, pa.Table]:
        """Put a partition's arrays into its slots, and give back the rest of it in its own order."""
        number, mine = part
        items = read_items(files, catalog, number)
        if catalog.metric == "ip" and (fault := _too_long(items["vectors"])):
            file = files.path / partition_folder(number) / ITEMS
            raise SnapshotError(f"{file}: vectors, {fault}; publish anew without it")
        for name, rows in items.items():
            merged[name].index_copy_(0, mine, rows)
        return read_columns(files, catalog, number), read_payload(files, catalog, number)

    pieces = torch.split(slots, [len(part["keys"]) for part in parts])
    columns, tables = zip(*in_threads(load, zip(partitions, pieces, strict=True)), strict=True)
    ordered = torch.full((arrangement.width,), -1).index_copy_(0, slots, keys)
    arrays = {
        "centroids": index["centroids"],
        "sizes": index["sizes"],
        "offsets": arrangement.offsets,
        "keys": ordered,
        "planes": aligned_planes(transpose_bits(merged.pop("bits"), catalog.layout.rows)),
        **merged,
    }
    placed = {name: placement.put(name, array) for name, array in arrays.items()}
    stored = Columns.concat(columns).take(arrangement.order)
    table = _joined(files, partitions, tables)
    if slack is not None:
        memory.require_texts(shared_text_bytes(table), free)
        stored = stored.spread(arrangement.slots, memory.slots, count_spare_tags(memory.items, memory.slots))
        try:
            table = widen(table, catalog.schema)
        except SnapshotError as error:
            raise SnapshotError(f"{files.path}: {error}") from None
    table = table.take(spread_index(arrangement.order.numpy(), arrangement.slots.numpy(), memory.slots))
    lists = InvertedLists(**placed, columns=stored, items=memory.items)
    payload = Payload(table, ordered.numpy(), catalog.schema.id if catalog.id_type == "string" else None)
    curve = RecallCurve(*(index[name].to(placement.device) for name in RecallCurve._fields))
    return LoadedPartitions(lists, payload, curve, memory)


def _joined(files: SnapshotFiles, partitions: Sequence[int], tables: Sequence[pa.Table]) -> pa.Table:
    """The payload of all partitions, which have columns of the same types."""
    for number, table in zip(partitions, tables, strict=True):
        if not table.schema.equals(tables[0].schema):
            file = files.path / partition_folder(number) / PAYLOAD
            raise SnapshotError(f"{file}: expected columns of the same types as in partition {partitions[0]}")
    return pa.concat_tables(tables).combine_chunks()


def _too_long(vectors: Tensor) -> str | None:
    """What is wrong with the first of `[n, D]` vectors that is longer than `MAX_LENGTH`, if one is."""
    if not vectors.numel():
        return None
    # One pass that writes nothing says it of nearly all catalogs. bfloat16 may have lengthened a vector by 2^-8.
    largest = max(-float(vectors.amin()), float(vectors.amax()))
    if largest * vectors.shape[1] ** 0.5 <= MAX_LENGTH:
        return None
    lengths = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
    (rows,) = torch.nonzero(~(lengths <= MAX_LENGTH * (1 + 2**-8)), as_tuple=True)
    return f"row {int(rows[0])}: {length_fault(float(lengths[rows[0]]))}" if len(rows) else None


def _room(arrangement: SlotPacking, catalog: Catalog) -> dict[str, Tensor]:
    """The arrays that partitions are loaded into, laid out as `InvertedLists` wants them, with zeros in free slots."""
    slots = arrangement.width
    arrays = {
        "codes": empty_rows(slots, catalog.dimension, torch.int8),
        "scales": torch.empty(slots),
        "vectors": empty_rows(slots, catalog.dimension, catalog.cache_type),
        "bits": torch.empty(slots, words_for(catalog.layout.rows), dtype=torch.int64),
    }
    free = arrangement.free()
    for array in arrays.values():
        array[free] = 0
    return arrays
