"""What users liked, in the order of time: the examples that a two-tower learns from."""

from __future__ import annotations

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

    def before(self, users: NDArray[np.int64], times: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """What each of these users liked before the time beside it: one array of items a row, oldest first."""
        order = np.argsort(self.users, kind="stable")
        firsts = np.searchsorted(self.users[order], users, side="left")
        ends = np.searchsorted(self.users[order], users, side="right")
        liked = []
        for first, end, time in zip(firsts, ends, times, strict=True):
            rows = order[first:end]
            liked.append(self.items[rows[: np.searchsorted(self.times[rows], time, side="left")]])
        return liked
