"""From ids and values in Arrow columns to rows of embedding tables; 0 is always "unknown or none"."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from silverray.shard.index.keys import hash_texts, hashed_rows
from silverray.shard.model.features import BucketFeature, Category, CategoryFeature, HashFeature
from silverray.shard.train.columns import Rows
from silverray.shard.train.format import category_type

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


def id_keys(ids: pa.Array) -> Keys:
    """Keys of integer or string ids without nulls; see `silverray.shard.index.keys`."""
    if pa.types.is_integer(ids.type):
        keys: Keys = ids.to_numpy(zero_copy_only=False)
    else:
        encoded = ids.dictionary_encode()
        keys = hash_texts(encoded.dictionary.to_pylist())[encoded.indices.to_numpy(zero_copy_only=False)]
    return keys


def category_codes(rows: Rows, column: str, rule: Category) -> NDArray[np.int64]:
    """What `rule.code` gives for each value of a column, and 0 where it is null.

    Raises:
        RequestError: a required value is missing, or one does not fit the rule.
    """
    match rule:
        case CategoryFeature():
            return text_codes(rows.read(column, category_type(rule), nullable=not rule.required), rule)
        case BucketFeature():
            numbers = rows.read_finite(column, category_type(rule), nullable=not rule.required)
            values = numbers.fill_null(np.nan).to_numpy(zero_copy_only=False)
            buckets = np.searchsorted(np.array(rule.boundaries), values, side="right") + 1
            codes: NDArray[np.int64] = np.where(np.isnan(values), 0, buckets)
            return codes
        case HashFeature():
            ids = rows.read(column, category_type(rule), nullable=not rule.required)
            present = ids.is_valid().to_numpy(zero_copy_only=False)
            hashed = np.zeros(len(ids), dtype=np.int64)
            hashed[present] = hashed_rows(id_keys(ids.drop_null()), rule.buckets)
            return hashed


def text_codes(texts: pa.Array, rule: CategoryFeature) -> NDArray[np.int64]:
    """Codes of texts by a vocabulary; 0 for null and unknown ones."""
    places = pc.index_in(texts, value_set=pa.array(rule.vocabulary, pa.string()), skip_nulls=True)
    codes: NDArray[np.int64] = places.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
    return codes
