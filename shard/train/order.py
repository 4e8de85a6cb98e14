"""A shuffle that keeps time nearly in order: nothing moves further than a window, and any place can be found again."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class WindowShuffle:
    """An order of rows in which every row stands less than `window` places from where it was.

    Row i gets the key i + window · u, with u drawn from [0, 1); the order is that of the keys. A row can be overtaken
    only by the `window - 1` rows after it, so the order up to any row is known once that many rows more have been read,
    and from the place p on it depends on no row before p - window + 1.

    Args:
        window: places; 1 keeps the order.
        seed: of this shuffle.
        epoch: another order for each.
    """

    def __init__(self, window: int, seed: int, epoch: int) -> None:
        self.window = window
        self._seeds = (seed, epoch)

    def keys(self, group: int, first: int, rows: int) -> NDArray[np.float64]:
        """Keys of a run of rows.

        Args:
            group: a number of the run, other than of all other runs; it seeds the draws.
            first: place of its first row among all rows.
            rows: how many there are.

        Returns:
            `[rows]` float64.
        """
        draws = np.random.default_rng([*self._seeds, group]).random(rows)
        return np.arange(first, first + rows) + self.window * draws

    def first_row(self, place: int) -> int:
        """The first row that can stand at a place or after it."""
        return max(0, place - self.window + 1)
