"""The item table: what is known of items, held once and joined to impressions by item id."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from silverray.shard.parquet.rows import ID_TYPES, Rows, TableError, check_type
from silverray.shard.schema.casts import is_list
from silverray.shard.schema.user_features import Category, CategoryFeature
from silverray.shard.towers.ids import HashedIds, Keys, Vocabulary
from silverray.shard.towers.jagged import Jagged
from silverray.shard.train.codes import category_codes, id_keys, text_codes
from silverray.shard.train.format import ITEM, category_type


class ItemTable:
    """Codes of N items by key.

    Args:
        keys: `[N]` int64, unique.
        features: N + 1 lists of int64 codes for each feature, those of an unknown item first.
        sizes: number of codes of each feature.
        ids: gives items their rows in an embedding table; by the order of `keys` unless given.

    Attributes:
        ids: rows of items, for the feature `item` and for histories alike.
        sizes: number of codes of every feature by name, `item` included.
    """

    def __init__(
        self,
        keys: Keys,
        features: Mapping[str, Jagged],
        sizes: Mapping[str, int],
        ids: Vocabulary | HashedIds | None = None,
    ) -> None:
        self._known = Vocabulary(keys)
        self.ids = ids or self._known
        self._features = dict(features)
        self.sizes = {ITEM: self.ids.size, **sizes}

    @classmethod
    def from_arrow(
        cls,
        table: pa.Table,
        id_column: str,
        rules: Mapping[str, Category],
        *,
        ids: HashedIds | None = None,
        name: str = "items",
    ) -> ItemTable:
        """Read items from a table.

        Args:
            table: one row per item.
            id_column: int64 or string ids.
            rules: features by column. With a vocabulary, a column may hold lists of texts (tags); unknown ones are left
                out.
            ids: hashed rows instead of one for each item.
            name: what messages call the table.

        Raises:
            TableError: a column is missing or wrong, or an id stands twice.
        """
        rows = Rows(name, table)
        keys = read_keys(rows, id_column)
        features = {column: _feature(rows, column, rule) for column, rule in rules.items()}
        try:
            return cls(keys, features, {column: rule.size for column, rule in rules.items()}, ids)
        except ValueError as error:
            raise TableError(f"{name}: column {id_column!r}: {error}") from None

    def look_up(self, keys: Keys) -> dict[str, Jagged]:
        """The features of n items, `item` first; unknown items have code 0, and no tags."""
        places = self._known.rows(keys)
        joined = {name: lists.take(places) for name, lists in self._features.items()}
        return {ITEM: Jagged.of_ones(self.ids.rows(keys)), **joined}


def read_keys(rows: Rows, id_column: str) -> Keys:
    """Keys of the items in some rows.

    Raises:
        TableError: the column is missing or wrong.
    """
    return id_keys(rows.read(id_column, check_type(rows.name, rows.table.schema, id_column, *ID_TYPES)))


def feature_types(rule: Category) -> tuple[pa.DataType, ...]:
    """Arrow types that a feature of items can be read as; one with a vocabulary may have several values."""
    one = category_type(rule)
    return (one, pa.large_list(one)) if isinstance(rule, CategoryFeature) else (one,)


def _feature(rows: Rows, column: str, rule: Category) -> Jagged:
    if is_list(check_type(rows.name, rows.table.schema, column, *feature_types(rule))):
        assert isinstance(rule, CategoryFeature)
        values, lengths = rows.read_lists(column, category_type(rule), nullable=not rule.required)
        codes = text_codes(values, rule)
        return Jagged.of_lengths(codes, np.concatenate([[0], lengths])).where(codes != 0)
    return Jagged.of_ones(np.concatenate([[0], category_codes(rows, column, rule)]))
