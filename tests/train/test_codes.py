"""Codes of ids and values, and the item table that is joined by them."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from request_tables import FORMAT, ITEMS, RULES, items

from silverray.shard.parquet.rows import Rows, TableError
from silverray.shard.schema.keys import hash_text
from silverray.shard.towers.ids import HashedIds, Vocabulary
from silverray.shard.train.codes import category_codes
from silverray.shard.train.items import ItemTable


def test_a_vocabulary_counts_from_one_and_knows_no_others() -> None:
    words = Vocabulary(np.array([30, 10, 20]))
    assert words.rows(np.array([10, 99, 30, -1, 20, 31])).tolist() == [2, 0, 1, 0, 3, 0]
    assert words.size == 4
    empty = Vocabulary(np.array([], dtype=np.int64))
    assert empty.rows(np.array([1, 2])).tolist() == [0, 0]
    with pytest.raises(ValueError, match="expected each key once, got the same at places 0 and 2"):
        Vocabulary(np.array([5, 6, 5]))


def test_hashed_ids_are_never_unknown() -> None:
    hashed = HashedIds(7)
    rows = hashed.rows(np.arange(-500, 500))
    assert set(rows.tolist()) == set(range(1, 8))
    assert rows.tolist() == hashed.rows(np.arange(-500, 500)).tolist()
    assert hashed.size == 8


def test_codes_of_columns_are_those_of_single_values() -> None:
    rows = Rows(
        "t",
        pa.table({"age": [17.9, 18, None, 300], "country": ["FR", "??", None, "US"], "city": ["a", None, "b", "a"]}),
    )
    for name, rule in FORMAT.user.categories.items():
        values = rows.table.column(name).to_pylist()
        wanted = [0 if value is None else rule.code(value) for value in values]
        assert category_codes(rows, name, rule).tolist() == wanted
    assert category_codes(rows, "age", FORMAT.user.categories["age"]).tolist() == [1, 2, 0, 3]


def test_items_are_looked_up_by_id() -> None:
    found = items().look_up(np.array([30, 99, 10, 40]))
    assert found["item"].values.tolist() == [3, 0, 1, 4]
    assert found["genres"].lengths.tolist() == [2, 0, 1, 1]
    assert found["genres"].values.tolist() == [2, 1, 2, 1]
    assert found["year"].values.tolist() == [2, 0, 1, 3]
    assert items().sizes == {"item": 5, "genres": 3, "year": 4}


def test_items_can_share_hashed_rows() -> None:
    table = ItemTable.from_arrow(ITEMS, "id", RULES, ids=HashedIds(2))
    assert table.sizes["item"] == 3
    found = table.look_up(np.array([10, 99]))
    assert found["item"].values.tolist() == HashedIds(2).rows(np.array([10, 99])).tolist()
    assert found["genres"].lengths.tolist() == [1, 0]


def test_text_ids() -> None:
    table = ItemTable.from_arrow(pa.table({"id": ["b", "a"]}), "id", {})
    assert table.look_up(np.array([hash_text("a"), hash_text("c")]))["item"].values.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"id": [1, 2, 1]}, "items: column 'id': .*each key once, got the same at places 0 and 2"),
        ({"id": [1, None]}, "items: column 'id', row 1: expected a value, got null"),
        ({"id": [1.5]}, "items: column 'id': expected int64 or string, got double"),
        ({"id": [1], "year": ["x"]}, "items: column 'year': expected double, got string"),
        ({"id": [1], "year": [float("nan")]}, "column 'year', row 0: expected a finite number, got nan"),
        ({"id": [1], "year": [1], "genres": [[1]]}, "column 'genres': expected string or list<.*string>, got list<"),
        ({"id": [1], "year": [1], "genres": [["a", None]]}, "column 'genres', row 0: .*got null in it"),
        ({"id": [1], "year": [1]}, "column 'genres': .*there is no such column"),
    ],
)
def test_bad_items_are_refused(table: dict[str, list[Any]], message: str) -> None:
    rules = (
        {} if len(table) == 1 else {"year": RULES["year"], **({} if len(table) == 2 and "x" in str(table) else RULES)}
    )
    with pytest.raises(TableError, match=message):
        ItemTable.from_arrow(pa.table(table), "id", rules)
