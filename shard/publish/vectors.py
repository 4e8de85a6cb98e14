"""Item vectors: as a user gave them, read block by block as they are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silverray.shard.schema.vectors import faults, to_unit_length
from silverray.shard.threads import Result, in_threads

BLOCK = 512
"""Rows of a block: its product with a few thousand centroids stays near the cache."""


class ItemVectors:
    """The vectors of N items, of length 1 for cosine; no copy of them all is ever made.

    Args:
        given: `[N, D]` float32, maybe a memory-mapped file; never written to.
        metric: how vectors are compared.

    Attributes:
        given: as above.
    """

    def __init__(self, given: NDArray[np.float32], metric: Literal["ip", "cosine"]) -> None:
        self.given = given
        self._metric: Literal["ip", "cosine"] = metric

    def __len__(self) -> int:
        return len(self.given)

    @property
    def dimension(self) -> int:
        """D."""
        return int(self.given.shape[1])

    def check(self) -> None:
        """Read every vector once.

        Raises:
            ValueError: one holds NaN or infinity, is zero and has no cosine, or is too long for inner products; the
                message names the first such row.
        """

        infinite = "holds NaN or infinity, or a number beyond float32"

        def problem(start: int) -> str | None:
            for row, fault in faults(self.given[start : start + BLOCK], self._metric, infinite).items():
                return f"vectors, row {start + row}: {fault}"
            return None

        for message in in_threads(problem, range(0, len(self), BLOCK)):
            if message:
                raise ValueError(message)

    def rows(self, places: NDArray[np.int64]) -> Tensor:
        """Read vectors from anywhere: `[m, D]` float32."""
        rows = np.empty((len(places), self.dimension), dtype=np.float32)
        for start in range(0, len(places), BLOCK):
            block = slice(start, start + BLOCK)
            rows[block] = self._as_compared(np.take(self.given, places[block], axis=0))
        return torch.from_numpy(rows)

    def map_blocks(self, work: Callable[[int, Tensor], Result]) -> Iterator[Result]:
        """Call `work(start, block)` for each block of consecutive rows, as `in_threads` does."""

        def read(start: int) -> Result:
            block = np.array(self.given[start : start + BLOCK])
            return work(start, torch.from_numpy(self._as_compared(block)))

        return in_threads(read, range(0, len(self), BLOCK))

    def _as_compared(self, block: NDArray[np.float32]) -> NDArray[np.float32]:
        return to_unit_length(block) if self._metric == "cosine" else block
