"""From ids and values in Arrow columns to rows of embedding tables; 0 is always "unknown or none"."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from silverray.shard.parquet.rows import Rows
from silverray.shard.schema.keys import hash_texts, hashed_rows
from silverray.shard.schema.user_features import BucketFeature, Category, CategoryFeature, HashFeature
from silverray.shard.towers.ids import Keys
from silverray.shard.train.format import category_type


def id_keys(ids: pa.Array) -> Keys:
    """Keys of integer or string ids without nulls; see `silverray.shard.schema.keys`."""
    if pa.types.is_integer(ids.type):
        keys: Keys = ids.to_numpy(zero_copy_only=False)
    else:
        encoded = ids.dictionary_encode()
        keys = hash_texts(encoded.dictionary.to_pylist())[encoded.indices.to_numpy(zero_copy_only=False)]
    return keys


def category_codes(rows: Rows, column: str, rule: Category) -> NDArray[np.int64]:
    """What `rule.code` gives for each value of a column, and 0 where it is null.

    Raises:
        TableError: a required value is missing, or one does not fit the rule.
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
    places = pc.index_in(texts, value_set=pa.array(rule.vocabulary, texts.type), skip_nulls=True)
    codes: NDArray[np.int64] = places.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1
    return codes
