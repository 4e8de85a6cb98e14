"""From keys of items to rows of embedding tables; row 0 is always "unknown or none".

Letters: N known keys, n keys of a call.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silverray.shard.schema.keys import hashed_rows

Keys = NDArray[np.int64]


class Vocabulary:
    """Rows by a list of known keys: the n-th key has row n + 1, any other row 0.

    Args:
        keys: `[N]` int64.

    Raises:
        ValueError: a key stands twice.
    """

    def __init__(self, keys: Keys) -> None:
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]
        if len(same := np.flatnonzero(np.diff(self._sorted) == 0)):
            first, second = self._order[same[0]], self._order[same[0] + 1]
            raise ValueError(f"vocabulary: expected each key once, got the same at places {first} and {second}")

    @property
    def size(self) -> int:
        """Number of rows, row 0 included."""
        return len(self._sorted) + 1

    def rows(self, keys: Keys) -> NDArray[np.int64]:
        """Rows of keys: `[n]` int64."""
        if not len(self._sorted):
            return np.zeros(len(keys), dtype=np.int64)
        places = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
        rows: NDArray[np.int64] = np.where(self._sorted[places] == keys, self._order[places] + 1, 0)
        return rows


@dataclass(frozen=True, slots=True)
class HashedIds:
    """Rows by a hash of the key, for more ids than a table can have rows; nothing is unknown, but keys can share a row.

    Attributes:
        buckets: number of rows besides row 0.
    """

    buckets: int

    @property
    def size(self) -> int:
        """Number of rows, row 0 included."""
        return self.buckets + 1

    def rows(self, keys: Keys) -> NDArray[np.int64]:
        """Rows of keys: `[n]` int64, 1 or above."""
        return hashed_rows(keys, self.buckets)
