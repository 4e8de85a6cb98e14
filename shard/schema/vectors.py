"""Item vectors: as a user gave them, read block by block as they are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silverray.shard.threads import Result, in_threads

BLOCK = 512
"""Rows of a block: its product with a few thousand centroids stays near the cache."""

MAX_LENGTH = 1e18
"""Longest vector that is compared by inner products. No sum of products of two such numbers is beyond 1e36, and float32
ends at 3.4e38: so scores are never infinite or NaN, nor are distances, codes and the sums that k-means takes."""
_UNIT = 2.0**-23
"""Rounding to float32 changes each number by 2^-24 of itself at most, and the length of a vector by no more."""


class ZeroVectorError(ValueError):
    """A vector of zeros has no direction.

    Args:
        row: the first such row.
    """

    def __init__(self, row: int) -> None:
        super().__init__("a vector of zeros has no cosine")
        self.row = row


def faults(
    vectors: NDArray[np.float32],
    metric: Literal["ip", "cosine"],
    infinite: str = "holds NaN, infinity or a number beyond float32",
) -> dict[int, str]:
    """What is wrong with vectors `[n, D]`, by row, the first row first; empty if nothing is.

    Args:
        vectors: in float32.
        metric: how they are compared.
        infinite: what is said of those that are not finite.
    """
    # A sum of squares in float64 is finite if and only if every float32 in it is.
    squares = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
    good = np.isfinite(squares) & (squares != 0 if metric == "cosine" else squares <= MAX_LENGTH**2)
    return {int(row): _fault(float(squares[row]), infinite) for row in np.flatnonzero(~good)}


def _fault(square: float, infinite: str) -> str:
    if not math.isfinite(square):
        return infinite
    return length_fault(math.sqrt(square)) if square else str(ZeroVectorError(0))


def length_fault(length: float) -> str:
    """What is wrong with a vector that is too long for inner products."""
    return f"expected a length of at most {MAX_LENGTH:g} with metric ip, got {length:.7g}"


def to_unit_length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale vectors to length 1.

    Those that have it, as far as float32 can tell, stay as they are: to scale twice is to scale once, bit for bit.

    Args:
        vectors: `[n, D]` float32, finite.

    Returns:
        `[n, D]` float32.

    Raises:
        ZeroVectorError: a row is all zeros.
    """
    wide = vectors.astype(np.float64)
    lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    if not lengths.all():
        raise ZeroVectorError(int(np.argmin(lengths)))
    lengths[np.abs(lengths - 1) <= _UNIT] = 1
    wide /= lengths[:, None]
    return wide.astype(np.float32)


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
