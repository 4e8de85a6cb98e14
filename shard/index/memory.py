"""The memory plan of a shard: bytes by component, known before anything is loaded.

Letters: n items, D dimensions, C clusters, R planes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from silverray.kernels.bits import words_for
from silverray.kernels.rows import row_bytes
from silverray.shard.api import ShardTooLarge
from silverray.shard.index.free_memory import free_bytes
from silverray.shard.index.packing import count_slots, count_spare_tags
from silverray.shard.index.placement import Placement
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.snapshot.files import COLUMNS, ITEMS, PAYLOAD, SnapshotFiles, partition_folder

SCRATCH_BYTES = 2 << 30
"""Kept free on a device: CUDA's context, and the bits, candidates and scores of a batch."""
HOST = torch.device("cpu")
_MORE_SHARDS = "use more shards on more machines"

FreeBytes = Callable[[torch.device], int]


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What a shard takes, and where.

    Attributes:
        placement: where its arrays go.
        items: how many it holds.
        slots: how many it has, free ones included.
        device: bytes by component on the device; empty where that is the CPU. What takes updates is made anew beside
            the old from time to time: `compaction`.
        host: bytes by component in host memory.
        loading: bytes of host memory that are needed only while it is loaded; a device's arrays pass through it.
    """

    placement: Placement
    items: int
    slots: int
    device: Mapping[str, int]
    host: Mapping[str, int]
    loading: int

    @classmethod
    def of(
        cls,
        files: SnapshotFiles,
        catalog: Catalog,
        partitions: Sequence[int],
        placement: Placement,
        slack: float | None = None,
    ) -> Self:
        """Plan for some partitions of a snapshot.

        Args:
            files: the snapshot.
            catalog: its catalog.
            partitions: which ones, each once.
            placement: where their arrays go.
            slack: free slots for each item; None for a shard that takes no updates.

        Returns:
            The plan: to the byte what `InvertedLists` takes; `payload`, `compaction` and `loading` are close.

        Raises:
            SnapshotError: there is no such partition.
        """
        items = catalog.items_in(tuple(partitions))
        folders = [partition_folder(number) for number in partitions]
        slots = count_slots(items, catalog.clusters, slack)
        stored = _columns(files, catalog, folders)
        columns = stored if slack is None else _spread_columns(stored, catalog, items, slots)
        payload = sum(files.bytes_of(f"{folder}/{PAYLOAD}") for folder in folders)
        sizes = _arrays(catalog, slots, placement) | {"columns": columns}
        lasting = {name: size for name, size in sizes.items() if placement.on_host(name)}
        device = {name: size for name, size in sizes.items() if name not in lasting}
        # Replies name items by their keys: a device's are kept on the host as well.
        # So is the slot of each key, by which given items are found.
        host = lasting | {"payload": payload + (sizes["keys"] if device else 0), "lookup": 16 * items}
        if slack is not None:
            # Beside the copy: the slot of each key, and what is known of each slot.
            host["compaction"] = sum(host.values()) + 16 * items + slots
            device |= {"compaction": sum(device.values())} if device else {}
        largest = max((files.bytes_of(f"{folder}/{ITEMS}") for folder in folders), default=0)
        bits = slots * words_for(catalog.layout.rows) * 8
        # Columns and payload are read, joined and ordered; a thread holds a partition's file and its arrays.
        copies = bits + 4 * sizes["keys"] + 2 * columns + 2 * payload + 2 * torch.get_num_threads() * largest
        passing = sum(size for name, size in device.items() if name != "compaction")
        return cls(placement, items, slots, device, host, copies + passing)

    def describe(self) -> dict[str, dict[str, int]]:
        """Bytes by place and component, as JSON values."""
        return {"device": dict(self.device), "host": dict(self.host)}

    def per_item(self) -> dict[str, dict[str, float]]:
        """Bytes per item by place and component."""
        items = max(1, self.items)
        return {place: {name: size / items for name, size in part.items()} for place, part in self.describe().items()}

    def fits(self, capacity_bytes: int) -> int:
        """How many such items fit a GPU of that size, beside the centroids and `SCRATCH_BYTES`; not for a CPU."""
        room = capacity_bytes - SCRATCH_BYTES - self.device["centroids"]
        each = sum(self.device.values()) - self.device["centroids"]
        return max(0, room) * self.items // max(1, each)

    def require(self, free: FreeBytes = free_bytes) -> None:
        """Refuse what cannot fit.

        Args:
            free: says how many bytes are free on a device.

        Raises:
            ShardTooLarge: the device or the host has too little free; the message has the numbers.
        """
        if self.device:
            advice = "use more shards" + (" or item_cache: host" if "vectors" in self.device else "")
            _require("on the device", {**self.device, "scratch": SCRATCH_BYTES}, free(self.placement.device), advice)
        _require("in host memory", {**self.host, "loading": self.loading}, free(HOST), _MORE_SHARDS)

    def require_texts(self, count: int, free: FreeBytes = free_bytes) -> None:
        """Refuse texts that rows share in their files and that do not fit once each row has its own.

        Args:
            count: their bytes.
            free: says how many bytes are free on a device.

        Raises:
            ShardTooLarge: the host has too little free.
        """
        _require("in host memory", {"texts of the payload": count}, free(HOST), _MORE_SHARDS)


def format_bytes(count: float) -> str:
    """Write a number of bytes for a person.

    Example:
        >>> format_bytes(13_207_024_435)
        '12.3 GiB'
    """
    size, unit = _unit(count)
    return f"{count / size:.1f} {unit}"


def _arrays(catalog: Catalog, slots: int, placement: Placement) -> dict[str, int]:
    """Bytes of the arrays of `InvertedLists`, columns left out."""

    def rows(name: str, count: int, dtype: torch.dtype) -> int:
        width = catalog.dimension
        return count * (row_bytes(width, dtype) if placement.on_host(name) else width * dtype.itemsize)

    clusters = catalog.clusters
    centroids = rows("centroids", clusters, torch.float32) + rows("centroids", clusters, torch.int8)
    return {
        "codes": rows("codes", slots, torch.int8),
        "scales": 4 * slots,
        "planes": catalog.layout.rows * row_bytes(words_for(slots), torch.int64),
        "vectors": rows("vectors", slots, catalog.cache_type),
        "keys": 8 * slots,
        "centroids": centroids + 4 * clusters + 8 * clusters + 8 * (clusters + 1),  # scales, sizes, offsets
    }


def _columns(files: SnapshotFiles, catalog: Catalog, folders: Sequence[str]) -> int:
    """Bytes of the merged columns: those in the files without what each partition has for itself."""
    stored = sum(files.array_bytes(f"{folder}/{COLUMNS}") for folder in folders)
    tags = sum(field.type == "tags" for field in catalog.schema.filterable.values())
    number_of_items, first_offsets = 8 * len(folders), 8 * tags * (len(folders) - 1)
    return stored - number_of_items - first_offsets


def _spread_columns(stored: int, catalog: Catalog, items: int, slots: int) -> int:
    """Bytes of columns that can be changed, from those of the merged ones."""
    fields = catalog.schema.filterable.values()
    tags = sum(field.type == "tags" for field in fields)
    each = 8 * len(fields) + sum(field.nullable for field in fields)
    # Values, offsets and marks by slot rather than by item; tags have ends as well, but no offset behind the last.
    return stored + each * (slots - items) + tags * (8 * slots - 8 + 8 * count_spare_tags(items, slots))


def _require(where: str, sizes: Mapping[str, int], free: int, advice: str) -> None:
    need = sum(sizes.values())
    if need <= free:
        return
    unit, _ = _unit(need)
    largest = sorted(sizes.items(), key=lambda entry: -entry[1])
    parts = ", ".join(f"{name} {size / unit:.1f}" for name, size in largest)
    raise ShardTooLarge(f"shard needs {format_bytes(need)} {where} ({parts}), {format_bytes(free)} are free; {advice}")


def _unit(count: float) -> tuple[int, str]:
    units = ((1 << 30, "GiB"), (1 << 20, "MiB"))
    return next((unit for unit in units if count >= unit[0]), (1 << 10, "KiB"))
