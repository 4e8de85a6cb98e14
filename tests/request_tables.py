"""Request tables of known content."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from silverray.shard.schema.user_features import BucketFeature, Category, CategoryFeature
from silverray.shard.train.format import RequestFormat
from silverray.shard.train.items import ItemTable

FORMAT = RequestFormat.parse("""
tasks: [liked, watched]
user:
  seen: {type: history, ids: int, length: 3}
  age: {type: bucket, boundaries: [18, 30]}
  country: {type: category, vocabulary: [US, FR]}
  city: {type: hash, ids: string, buckets: 10}
""")

ITEMS = pa.table(
    {
        "id": [10, 20, 30, 40],
        "genres": [["war"], [], ["war", "drama"], ["unheard of", "drama"]],
        "year": [1990, None, 2005, 2020],
    }
)
RULES: dict[str, Category] = {"genres": CategoryFeature(("drama", "war")), "year": BucketFeature((2000.0, 2010.0))}


def items() -> ItemTable:
    """Rows of the items 10, 20, 30, 40: 1 to 4."""
    return ItemTable.from_arrow(ITEMS, "id", RULES)


def request_table(count: int, *, first: int = 0, seed: int = 0) -> pa.Table:
    """Requests number `first` and after, one a second and of 1 to 4 impressions; `age` is the number."""
    rng = np.random.default_rng(seed)
    numbers = np.arange(first, first + count)
    shown = [rng.choice([10, 20, 30, 40, 99], 1 + n % 4).tolist() for n in numbers]
    rows = {
        "request": numbers,
        "user": numbers % 7,
        "time": numbers + 1_000,
        "seen": [rng.choice([10, 20, 30, 40, 77], n % 6).tolist() for n in numbers],
        "age": numbers.astype(float),
        "country": [("US", "FR", "XX", None)[n % 4] for n in numbers],
        "city": [("Rome", "Oslo", None)[n % 3] for n in numbers],
        "items": shown,
        "liked": [
            [float((n + place) % 3 == 0) for place in range(len(own))] for n, own in zip(numbers, shown, strict=True)
        ],
        "watched": [[1.0] * len(own) for own in shown],
    }
    return pa.table(rows, schema=FORMAT.request_schema(user=pa.int64()))


def write(folder: Path, table: pa.Table, *, row_group: int = 1_000, name: str = "requests.parquet") -> Path:
    file = folder / name
    pq.write_table(table, file, row_group_size=row_group)
    return file


def with_column(table: pa.Table, name: str, values: Sequence[Any] | pa.Array) -> pa.Table:
    """The table with one column exchanged."""
    return table.set_column(
        table.column_names.index(name), name, pa.array(values) if isinstance(values, list) else values
    )
