"""Loading: any set of partitions of a snapshot, merged into lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from silverray.kernels.bits import transpose_bits, words_for
from silverray.kernels.rows import empty_rows
from silverray.shard.filter.columns import Columns
from silverray.shard.index.catalog import Catalog
from silverray.shard.index.lists import Lists
from silverray.shard.index.payload import Payload
from silverray.shard.index.recall import RecallCurve
from silverray.shard.index.snapshot import COLUMNS, INDEX, ITEMS, KEYS, PAYLOAD, SnapshotFiles, partition_folder
from silverray.shard.index.workers import in_threads


class LoadedPartitions(NamedTuple):
    """Partitions in memory: what a search reads, what a reply shows and what the planner knows."""

    lists: Lists
    payload: Payload
    curve: RecallCurve


def load_partitions(
    files: SnapshotFiles, catalog: Catalog, partitions: Sequence[int], device: torch.device
) -> LoadedPartitions:
    """Load partitions and merge their lists per cluster.

    Args:
        files: the snapshot.
        catalog: its catalog.
        partitions: which ones, each once.
        device: where the lists go.

    Returns:
        The merged partitions; slots are in (cluster, key) order whatever the order of `partitions`.

    Raises:
        SnapshotError: a file is missing or altered, or there is no such partition; the message names it.

    Cost:
        Beside what is returned, memory for the filter bits and columns once more and for one partition a thread.
    """
    items = catalog.items_in(tuple(partitions))
    index = files.tensors(INDEX)
    folders = [partition_folder(number) for number in partitions]
    parts = [files.tensors(f"{folder}/{KEYS}") for folder in folders]
    keys, clusters = (torch.cat([part[name] for part in parts]) for name in ("keys", "clusters"))
    order = torch.from_numpy(np.lexsort((keys.numpy(), clusters.numpy())))
    slots = torch.empty_like(order)
    slots[order] = torch.arange(items)
    merged = _room(items, catalog)

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
    lists = Lists(
        centroids=index["centroids"],
        sizes=index["sizes"],
        offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        keys=keys[order],
        planes=transpose_bits(merged.pop("bits"), catalog.layout.rows),
        columns=Columns.concat(columns).take(order),
        **merged,
    ).to(device)
    payload = Payload(
        pa.concat_tables(tables).combine_chunks().take(pa.array(order.numpy())),
        lists.keys.cpu().numpy(),
        catalog.schema.id if catalog.id_type == "string" else None,
    )
    return LoadedPartitions(lists, payload, RecallCurve(index["depths"].to(device), index["fractions"].to(device)))


def _room(items: int, catalog: Catalog) -> dict[str, Tensor]:
    """The arrays that partitions are loaded into, laid out as `Lists` wants them."""
    return {
        "codes": empty_rows(items, catalog.dimension, torch.int8),
        "scales": torch.empty(items),
        "vectors": empty_rows(items, catalog.dimension, torch.float32),
        "bits": torch.empty(items, words_for(catalog.layout.rows), dtype=torch.int64),
    }
