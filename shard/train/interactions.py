"""What users liked, in the order of time: the examples that a two-tower learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Interactions:
    """Likes, one row each.

    Attributes:
        users: `[n]` int64 user rows.
        items: `[n]` int64 item rows.
        times: `[n]` int64, ascending.
    """

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64]

    def __post_init__(self) -> None:
        if not len(self.users) == len(self.items) == len(self.times):
            raise ValueError("interactions: expected users, items and times of one length")
        if np.any(np.diff(self.times) < 0):
            raise ValueError("interactions: expected ascending times")

    def __len__(self) -> int:
        return len(self.users)

    def split_row(self, held_out: float) -> int:
        """First row of the last `held_out` fraction; rows of one time stay together, on the held-out side."""
        if not len(self):
            return 0
        row = min(int(len(self) * (1 - held_out)), len(self) - 1)
        return int(np.searchsorted(self.times, self.times[row], side="left"))

    def earlier(self) -> list[NDArray[np.int64]]:
        """The items that the same user liked at a strictly earlier time: one array a row, oldest first."""
        earlier: list[NDArray[np.int64]] = [self.items[:0]] * len(self)
        order = np.argsort(self.users, kind="stable")
        starts = np.flatnonzero(np.diff(self.users[order], prepend=-1))
        for rows in np.split(order, starts[1:]):
            items, times = self.items[rows], self.times[rows]
            before = np.searchsorted(times, times, side="left")
            for row, count in zip(rows, before, strict=True):
                earlier[row] = items[:count]
        return earlier


def padded_histories(earlier: Sequence[NDArray[np.int64]], length: int) -> NDArray[np.int64]:
    """Cut to the latest `length` items, as a user tower takes them: `[n, length]` int64, row + 1."""
    histories = np.zeros((len(earlier), length), dtype=np.int64)
    for row, items in enumerate(earlier):
        latest = items[-length:]
        histories[row, : len(latest)] = latest + 1
    return histories
