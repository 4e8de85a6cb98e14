"""How much memory a snapshot's items take, and how many fit a card: for `publish` and `inspect`."""

from __future__ import annotations

from typing import Any, get_args

import torch
from rich.table import Column, Table

from silverray.shard.index.memory import SCRATCH_BYTES, MemoryPlan, format_bytes
from silverray.shard.index.placement import ItemCache, Placement
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.snapshot.files import SnapshotFiles

CARDS_GIB = (24, 40, 80, 141)
"""Memory of an L4 or RTX 4090, an A100, an A100 or H100, and an H200."""


def describe_memory(files: SnapshotFiles, catalog: Catalog) -> dict[str, Any]:
    """Bytes per item of the whole snapshot in one shard, by device, place and component, and how many items fit."""
    everything = range(catalog.partitions)

    def plan(device: str, item_cache: ItemCache = "device") -> MemoryPlan:
        return MemoryPlan.of(files, catalog, everything, Placement(torch.device(device), item_cache))

    caches: dict[ItemCache, MemoryPlan] = {cache: plan("cuda", cache) for cache in get_args(ItemCache)}
    return {
        "bytes_per_item": {"cpu": plan("cpu").per_item(), "cuda": caches["device"].per_item()},
        "scratch_bytes": SCRATCH_BYTES,
        "items_that_fit": [
            {"card_gib": size, **{cache: one.fits(size << 30) for cache, one in caches.items()}} for size in CARDS_GIB
        ],
    }


def memory_tables(memory: dict[str, Any]) -> tuple[Table, Table]:
    """What `describe_memory` says, for a person."""
    cpu, cuda = (memory["bytes_per_item"][device] for device in ("cpu", "cuda"))
    places = (cpu["host"], cuda["device"], cuda["host"])
    items = _table("bytes an item", "", "CPU", "GPU", "GPU's host")
    for name in cpu["host"]:
        items.add_row(name, *(f"{place[name]:,.1f}" if name in place else "" for place in places))
    items.add_row("total", *(f"{sum(place.values()):,.1f}" for place in places))
    reserve = format_bytes(memory["scratch_bytes"])
    cards = _table(f"items that fit a card, {reserve} kept free", "", "item_cache: device", "item_cache: host")
    for card in memory["items_that_fit"]:
        cards.add_row(f"{card['card_gib']} GiB", f"{card['device']:,}", f"{card['host']:,}")
    return items, cards


def _table(title: str, first: str, *others: str) -> Table:
    columns = [Column(header, justify="right", no_wrap=True) for header in others]
    return Table(first, *columns, title=title, title_justify="left")
