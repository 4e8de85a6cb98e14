"""Loading: any set of partitions of a snapshot, merged into lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from silverray.kernels.bits import transpose_bits, words_for
from silverray.kernels.rows import aligned_planes, empty_rows
from silverray.shard.filter.columns import Columns
from silverray.shard.index.catalog import Catalog
from silverray.shard.index.free_memory import free_bytes
from silverray.shard.index.lists import Lists
from silverray.shard.index.memory import FreeBytes, MemoryPlan
from silverray.shard.index.payload import Payload
from silverray.shard.index.placement import Placement
from silverray.shard.index.recall import RecallCurve
from silverray.shard.index.snapshot import COLUMNS, INDEX, ITEMS, KEYS, PAYLOAD, SnapshotFiles, partition_folder
from silverray.shard.index.workers import in_threads


class LoadedPartitions(NamedTuple):
    """Partitions in memory: what a search reads, what a reply shows, what the planner knows, and what it all takes."""

    lists: Lists
    payload: Payload
    curve: RecallCurve
    memory: MemoryPlan


def load_partitions(
    files: SnapshotFiles,
    catalog: Catalog,
    partitions: Sequence[int],
    placement: Placement,
    free: FreeBytes = free_bytes,
) -> LoadedPartitions:
    """Load partitions and merge their lists per cluster.

    Args:
        files: the snapshot.
        catalog: its catalog.
        partitions: which ones, each once.
        placement: where the lists go.
        free: says how many bytes are free on a device.

    Returns:
        The merged partitions; slots are in (cluster, key) order whatever the order of `partitions`.

    Raises:
        SnapshotError: a file is missing or altered, or there is no such partition; the message names it.
        ShardTooLarge: the partitions do not fit; nothing has been read of them.

    Cost:
        Beside what is returned, the `loading` of its plan.
    """
    memory = MemoryPlan.of(files, catalog, partitions, placement)
    memory.require(free)
    index = files.tensors(INDEX)
    folders = [partition_folder(number) for number in partitions]
    parts = [files.tensors(f"{folder}/{KEYS}") for folder in folders]
    keys, clusters = (torch.cat([part[name] for part in parts]) for name in ("keys", "clusters"))
    order = torch.from_numpy(np.lexsort((keys.numpy(), clusters.numpy())))
    slots = torch.empty_like(order)
    slots[order] = torch.arange(memory.items)
    merged = _room(memory.items, catalog)

    def load(part: tuple[str, Tensor]) -> tuple[Columns, pa.Table]:
        """Put a partition's arrays into its slots, and give back the rest of it in its own order."""
        folder, mine = part
        for name, rows in files.tensors(f"{folder}/{ITEMS}").items():
            merged[name].index_copy_(0, mine, rows)
        columns = Columns.from_tensors(files.tensors(f"{folder}/{COLUMNS}"), catalog.schema)
        return columns, pa.ipc.open_file(pa.BufferReader(files.read(f"{folder}/{PAYLOAD}"))).read_all()

    pieces = torch.split(slots, [len(part["keys"]) for part in parts])
    columns, tables = zip(*in_threads(load, zip(folders, pieces, strict=True)), strict=True)
    counts = torch.bincount(clusters, minlength=catalog.clusters)
    arrays = {
        "centroids": index["centroids"],
        "sizes": index["sizes"],
        "offsets": torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        "keys": (ordered := keys[order]),
        "planes": aligned_planes(transpose_bits(merged.pop("bits"), catalog.layout.rows)),
        **merged,
    }
    placed = {name: placement.put(name, array) for name, array in arrays.items()}
    lists = Lists(**placed, columns=Columns.concat(columns).take(order))
    payload = Payload(
        pa.concat_tables(tables).combine_chunks().take(pa.array(order.numpy())),
        ordered.numpy(),
        catalog.schema.id if catalog.id_type == "string" else None,
    )
    curve = RecallCurve(*(index[name].to(placement.device) for name in RecallCurve._fields))
    return LoadedPartitions(lists, payload, curve, memory)


def _room(items: int, catalog: Catalog) -> dict[str, Tensor]:
    """The arrays that partitions are loaded into, laid out as `Lists` wants them."""
    return {
        "codes": empty_rows(items, catalog.dimension, torch.int8),
        "scales": torch.empty(items),
        "vectors": empty_rows(items, catalog.dimension, torch.float32),
        "bits": torch.empty(items, words_for(catalog.layout.rows), dtype=torch.int64),
    }
