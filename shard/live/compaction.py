"""Compaction: a shard's arrays made anew with fresh slack, beside those that are searched and written meanwhile.

What is written while they are copied may be copied by halves. Whoever compacts keeps those writes and applies
them again to the new arrays: a write that comes twice leaves what it left the first time, and a write to an item sets
all that an earlier one set by halves. Letters: n items, N slots, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from silverray.kernels.bits import pack_bits, read_bits, words_for
from silverray.kernels.codes import quantize_rows
from silverray.kernels.rows import aligned_planes, empty_rows
from silverray.shard.engine.loaded import LoadedIndex
from silverray.shard.index.inverted_lists import InvertedLists
from silverray.shard.index.key_index import FREE, Ints
from silverray.shard.index.packing import SlotPacking, count_spare_tags
from silverray.shard.index.payload import Payload
from silverray.shard.live.arrays import LiveArrays
from silverray.shard.schema.columns import Column, Columns

BLOCK = 4_096
"""Rows that are copied at a time: 2 MiB of 128 dimensions stay in a cache between reading and writing, where all at
once would be a second copy of the array."""


class Still(NamedTuple):
    """What must not change while arrays are copied: which items there are, and where their tags lie.

    Attributes:
        keys: `[N]` int64 by slot.
        homes: nearest cluster by slot, of items that are not in it.
        columns: of the lists; of tags with offsets and ends of their own.
        payload: with written rows of its own.
    """

    keys: Ints
    homes: Mapping[int, int]
    columns: Columns
    payload: Payload

    @classmethod
    def of(cls, live: LiveArrays) -> Self:
        """Copy them, between two edits."""
        fields = {
            name: column
            if column.offsets is None or column.ends is None
            else Column(column.values, column.present, column.offsets.clone(), column.ends.clone())
            for name, column in live.lists.columns.fields.items()
        }
        columns = Columns(live.lists.columns.items, fields)
        return cls(live.payload.slot_keys.copy(), dict(live.slots.strays), columns, live.payload.still())


def compact(live: LiveArrays, still: Still, slack: float) -> LoadedIndex:
    """Copy the items into new arrays, each into its nearest cluster.

    Args:
        live: the arrays, which may be written meanwhile.
        still: what they were before.
        slack: free slots for each item.

    Returns:
        The new arrays, to which all writes since `still` must be applied.

    Cost:
        A copy of everything; 16 bytes an item and 9 a slot beside it.
    """
    lists, loaded = live.lists, live.index.loaded
    old = np.flatnonzero(still.keys != FREE)
    clusters = live.slots.clusters(old)
    strays = np.flatnonzero(np.isin(old, np.fromiter(still.homes, dtype=np.int64)))
    clusters[strays] = [still.homes[slot] for slot in old[strays].tolist()]
    keys = torch.from_numpy(still.keys[old])
    arrangement = SlotPacking.of(keys, torch.from_numpy(clusters), len(lists.centroids), slack)
    sources = torch.from_numpy(old)[arrangement.order]
    new_keys = torch.full((arrangement.width,), FREE).index_copy_(0, arrangement.slots, keys[arrangement.order])
    spare = count_spare_tags(len(old), arrangement.width)
    device = lists.keys.device
    rows = {name: _rows(getattr(lists, name), sources, arrangement) for name in ("codes", "scales", "vectors")}
    moved = torch.isin(arrangement.order, torch.from_numpy(strays))
    _encode(rows, arrangement.slots[moved], torch.from_numpy(clusters)[arrangement.order[moved]], lists.centroids)
    made = InvertedLists(
        centroids=lists.centroids,
        sizes=lists.sizes,
        offsets=arrangement.offsets.to(device),
        keys=new_keys.to(device),
        planes=_planes(lists.planes, sources, arrangement),
        columns=still.columns.take(sources.to(device)).spread(arrangement.slots.to(device), arrangement.width, spare),
        items=len(old),
        **{name: loaded.memory.placement.put(name, array) for name, array in rows.items()},
    )
    payload = still.payload.arranged(sources.numpy(), arrangement.slots.numpy(), new_keys.numpy())
    return LoadedIndex.of(loaded._replace(lists=made, payload=payload))


def _rows(old: Tensor, sources: Tensor, arrangement: SlotPacking) -> Tensor:
    """Rows of the sources in their new slots, and zeros in free ones."""
    width = arrangement.width
    on_cpu = old.device.type == "cpu"
    shape = (width, *old.shape[1:])
    new = empty_rows(width, old.shape[1], old.dtype) if on_cpu and old.dim() == 2 else old.new_empty(shape)
    new[arrangement.free().to(old.device)] = 0
    for places, targets in zip(torch.split(sources, BLOCK), torch.split(arrangement.slots, BLOCK), strict=True):
        new.index_copy_(0, targets.to(old.device), old.index_select(0, places.to(old.device)))
    return new


def _encode(rows: dict[str, Tensor], slots: Tensor, clusters: Tensor, centroids: Tensor) -> None:
    """Make the codes of items anew that are in another cluster now."""
    for some, its in zip(torch.split(slots, BLOCK), torch.split(clusters, BLOCK), strict=True):
        vectors = rows["vectors"][some.to(rows["vectors"].device)].to(centroids)
        codes = quantize_rows(vectors - centroids[its.to(centroids.device)])
        places = some.to(centroids.device)
        rows["codes"].index_copy_(0, places, codes.values)
        rows["scales"].index_copy_(0, places, codes.scales)


def _planes(old: Tensor, sources: Tensor, arrangement: SlotPacking) -> Tensor:
    """The bits of the sources at their new slots."""
    words = words_for(arrangement.width)
    places, targets = sources.to(old.device), arrangement.slots.to(old.device)
    new = aligned_planes(old.new_zeros(len(old), words))
    for plane, bits in enumerate(old):
        some = targets[read_bits(bits[None], torch.zeros_like(places[:1]), places)]
        new[plane, :words] = pack_bits(torch.zeros_like(some), some, 1, words)[0]
    return new
