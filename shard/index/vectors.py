"""Unit vectors: what cosine compares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class ZeroVectorError(ValueError):
    """A vector of zeros has no direction.

    Args:
        row: the first such row.
    """

    def __init__(self, row: int) -> None:
        super().__init__("a vector of zeros has no cosine")
        self.row = row


def to_unit_length(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale vectors to length 1.

    Args:
        vectors: `[n, D]` float32, finite.

    Returns:
        `[n, D]` float32.

    Raises:
        ZeroVectorError: a row is all zeros.
    """
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    if not lengths.all():
        raise ZeroVectorError(int(np.argmin(lengths)))
    unit: NDArray[np.float32] = (vectors / lengths).astype(np.float32)
    return unit
