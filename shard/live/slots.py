"""The books of a shard's slots, on the host: which item is where, and what is free.

Letters: N slots, C clusters, m keys of one call.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from silverray.shard.index.key_index import FREE, Ints, KeySlots


class Slots:
    """Which item is where, and what is free.

    Args:
        keys: `[N]` int64 keys by slot, `FREE` where there is no item. The array is the caller's: it changes as edits
            are applied, and the books only read it.
        offsets: `[C + 1]` int64; cluster c has slots `offsets[c]` to `offsets[c + 1]`, end excluded.

    Attributes:
        room: `[C]` int64 free slots of each cluster.
        free: how many slots are free in all.
        strays: the nearest cluster of each item that found no room there, by its slot.
    """

    def __init__(self, keys: Ints, offsets: Ints) -> None:
        self._keys = keys
        self._offsets = offsets
        self._index = KeySlots(keys)
        before = np.concatenate([[0], np.cumsum(keys == FREE)])
        self.room: Ints = np.diff(before[offsets])
        self._stacks: dict[int, list[int]] = {}
        self.free = int(before[-1])
        self.strays: dict[int, int] = {}

    def find(self, keys: Ints) -> Ints:
        """The slots of items, `[m]` int64; `FREE` for those that there are not."""
        return self._index.find(keys)

    def clusters(self, slots: Ints) -> Ints:
        """The clusters of slots, `[m]` int64."""
        return np.searchsorted(self._offsets, slots, side="right") - 1

    def release(self, slot: int, cluster: int) -> None:
        """Free the slot of an item that is no more, or moves."""
        self._stack(cluster).append(slot)
        self.room[cluster] += 1
        self.free += 1
        self.strays.pop(slot, None)

    def forget(self, keys: Ints) -> None:
        """Keep no note of items that are no more."""
        self._index.forget(keys)

    def take(self, key: int, cluster: int) -> int:
        """Give an item a free slot of a cluster that has room."""
        slot = self._stack(cluster).pop()
        self.room[cluster] -= 1
        self.free -= 1
        self._index.move(key, slot)
        return slot

    def settle(self, slot: int, cluster: int, home: int) -> None:
        """Note whether the item of a slot is in its nearest cluster, `home`."""
        if cluster == home:
            self.strays.pop(slot, None)
        else:
            self.strays[slot] = home

    def _stack(self, cluster: int) -> list[int]:
        """The free slots of a cluster, those at the end first; listed when they are first asked for."""
        if cluster not in self._stacks:
            first, last = self._offsets[cluster : cluster + 2].tolist()
            self._stacks[cluster] = (first + np.flatnonzero(self._keys[first:last] == FREE)).tolist()
        return self._stacks[cluster]


def homes(slots: Ints, clusters: Ints, strays: Mapping[int, int]) -> Ints:
    """The nearest clusters of items: those that their slots are in, unless they are strays."""
    result = clusters.copy()
    if strays:
        at = {slot: place for place, slot in enumerate(slots.tolist()) if slot in strays}
        result[list(at.values())] = [strays[slot] for slot in at]
    return result
