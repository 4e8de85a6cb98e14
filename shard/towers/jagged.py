"""Rows of lists as two flat arrays, the layout of a `KeyedJaggedTensor`'s features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from silverray.shard.towers.tables import keyed_jagged

if TYPE_CHECKING:
    from torchrec import KeyedJaggedTensor


@dataclass(frozen=True, slots=True)
class Jagged:
    """R lists of values.

    Attributes:
        values: `[n, ...]`, the lists one after another.
        offsets: `[R + 1]` int64, where each list starts; the first is 0, the last n.
    """

    values: NDArray[Any]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def of_lengths(cls, values: NDArray[Any], lengths: NDArray[np.int64]) -> Jagged:
        """Lists of these lengths (`[R]`), one after another in `values`."""
        return cls(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    @classmethod
    def of_ones(cls, values: NDArray[Any]) -> Jagged:
        """Lists of one value each."""
        return cls(values, np.arange(len(values) + 1))

    @classmethod
    def concat(cls, parts: Sequence[Jagged]) -> Jagged:
        """The lists of all parts, one part after another."""
        return cls.of_lengths(
            np.concatenate([part.values for part in parts]), np.concatenate([part.lengths for part in parts])
        )

    @property
    def lengths(self) -> NDArray[np.int64]:
        """`[R]` int64."""
        return np.diff(self.offsets)

    def take(self, rows: NDArray[np.int64]) -> Jagged:
        """The lists of some rows, in their order."""
        return self._part(self.offsets[rows], self.lengths[rows])

    def where(self, kept: NDArray[np.bool_]) -> Jagged:
        """The lists without the values that are not kept (`[n]` bool)."""
        before = np.concatenate([[0], np.cumsum(kept)])
        return Jagged(self.values[kept], before[self.offsets])

    def latest(self, length: int) -> Jagged:
        """The last `length` values of each list."""
        kept = np.minimum(self.lengths, length)
        return self if np.array_equal(kept, self.lengths) else self._part(self.offsets[1:] - kept, kept)

    def _part(self, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Jagged:
        ends = np.cumsum(lengths)
        places = np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)
        return Jagged.of_lengths(self.values[places], lengths)


def features_of(columns: Mapping[str, Jagged]) -> KeyedJaggedTensor:
    """Lists of several features over the same rows as one `KeyedJaggedTensor` of int64.

    Raises:
        TablesUnavailable: TorchRec is not installed.
    """
    return keyed_jagged(
        {name: (torch.from_numpy(lists.values), torch.from_numpy(lists.lengths)) for name, lists in columns.items()}
    )
