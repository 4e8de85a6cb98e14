"""Which vectors can be compared, and their scaling to length 1."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

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
    if good.all():  # the rule, and a single query would wait for the rest
        return {}
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
