"""Loading: any set of partitions of a snapshot, merged into lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from silverray.kernels.bits import transpose_bits
from silverray.shard.filter.columns import Columns
from silverray.shard.index.catalog import Catalog
from silverray.shard.index.lists import Lists
from silverray.shard.index.payload import Payload
from silverray.shard.index.recall import RecallCurve
from silverray.shard.index.snapshot import INDEX, SnapshotFiles, partition_folder


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
    """
    catalog.items_in(tuple(partitions))
    index = files.tensors(INDEX)
    folders = [partition_folder(number) for number in partitions]
    parts = [files.tensors(f"{folder}/items.safetensors") for folder in folders]
    keys, clusters = (torch.cat([part.pop(name) for part in parts]) for name in ("keys", "clusters"))
    order = torch.from_numpy(np.lexsort((keys.numpy(), clusters.numpy())))
    stored = [files.tensors(f"{folder}/columns.safetensors") for folder in folders]
    columns = Columns.concat([Columns.from_tensors(tensors, catalog.schema) for tensors in stored]).take(order)
    counts = torch.bincount(clusters, minlength=catalog.clusters)
    lists = Lists(
        centroids=index["centroids"],
        sizes=index["sizes"],
        offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        keys=keys[order],
        codes=_gather(parts, "codes", order),
        scales=_gather(parts, "scales", order),
        vectors=_gather(parts, "vectors", order),
        planes=transpose_bits(_gather(parts, "bits", order), catalog.layout.rows),
        columns=columns,
    ).to(device)
    tables = [pa.ipc.open_file(pa.BufferReader(files.read(f"{folder}/payload.arrow"))).read_all() for folder in folders]
    payload = Payload(
        pa.concat_tables(tables).take(pa.array(order.numpy())),
        keys[order].numpy(),
        catalog.schema.id if catalog.id_type == "string" else None,
    )
    return LoadedPartitions(lists, payload, RecallCurve(index["depths"].to(device), index["fractions"].to(device)))


def _gather(parts: list[dict[str, Tensor]], name: str, order: Tensor) -> Tensor:
    """Merge one array of all partitions into slot order, letting go of each part as it is read."""
    places = torch.empty_like(order)
    places[order] = torch.arange(len(order))
    merged = parts[0][name].new_empty(len(order), *parts[0][name].shape[1:])
    start = 0
    for part in parts:
        rows = part.pop(name)
        merged[places[start : start + len(rows)]] = rows
        start += len(rows)
    return merged
