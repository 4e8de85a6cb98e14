"""Where items are: from keys to slots, on the host. Letters: N slots, n items, m keys of one call."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
FREE = -1
"""The key of a slot without an item; also the slot of an item that is not there."""


class KeySlots:
    """Finds the slots of items by key.

    Args:
        keys: `[N]` int64 keys by slot, `FREE` where there is no item. The array is the caller's, who may change it: a
            key that is no longer in its slot is not found there.

    Cost:
        16 bytes an item, and 100 for one that has come or moved since.
    """

    def __init__(self, keys: Ints) -> None:
        self._keys = keys
        taken = np.flatnonzero(keys != FREE)
        order = np.argsort(keys[taken])
        self._places = taken[order]
        self._sorted = keys[self._places]
        self._moved: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        """What it took when it was made."""
        return self._places.nbytes + self._sorted.nbytes

    def find(self, keys: Ints) -> Ints:
        """The slots of items, `[m]` int64; `FREE` for those that there are not."""
        slots = np.full(len(keys), FREE)
        if len(self._sorted):
            near = np.searchsorted(self._sorted, keys)  # fastest where the keys ascend
            slots = self._places[np.minimum(near, len(self._sorted) - 1)]
            slots[(self._keys[slots] != keys) | (keys == FREE)] = FREE
        if self._moved:
            for place in np.flatnonzero(slots == FREE).tolist():
                slot = self._moved.get(key := int(keys[place]), FREE)
                if slot != FREE and self._keys[slot] == key:
                    slots[place] = slot
        return slots

    def move(self, key: int, slot: int) -> None:
        """Note that an item is in another slot now, or has come."""
        self._moved[key] = slot

    def forget(self, keys: Ints) -> None:
        """Keep no note of items that are no more."""
        for key in keys.tolist():
            self._moved.pop(key, None)
