"""Requests of people who like one half of a catalog only: who knows their history knows which half."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from silverray.shard.train.format import RequestFormat
from silverray.shard.train.items import ItemTable

ITEMS = 100
KEYS = np.arange(ITEMS) * 10
FEATURES = """
tasks: [liked, watched]
user:
  seen: {type: history, ids: int, length: 5}
  age: {type: bucket, boundaries: [30.0]}
"""
FORMAT = RequestFormat.parse(FEATURES)
CONFIG = """
requests: requests.parquet
held_out: later.parquet
features: features.yaml
items: {file: items.parquet, id: id, features: {half: {type: category, vocabulary: [low, high]}}}
out: out
widths: {dimension: 16, hidden: 32, ids: 16}
objectives:
  - {task: liked, loss: sampled_softmax}
  - {task: watched, loss: binary_cross_entropy, weight: 0.1}
batch: {requests: 64, shuffle_window: 100}
epochs: 2
learning_rate: 0.01
dropout: {seen: 0.2}
serve_tasks: [liked]
recall: {task: liked, places: 10}
checkpoint_every: 5
threads: 1
"""


def items_table() -> pa.Table:
    return pa.table({"id": KEYS, "half": ["low" if n < ITEMS // 2 else "high" for n in range(ITEMS)]})


def items() -> ItemTable:
    return ItemTable.from_arrow(items_table(), "id", {})


def requests_table(count: int, seed: int = 0) -> pa.Table:
    """Of four items that a request shows, the three of the user's half are liked."""
    rng = np.random.default_rng(seed)
    half = rng.integers(0, 2, count)
    own = rng.integers(0, ITEMS // 2, (count, 9)) + (half * (ITEMS // 2))[:, None]
    other = (rng.integers(0, ITEMS // 2, count) + (1 - half) * (ITEMS // 2))[:, None]
    rows: dict[str, Any] = {
        "request": np.arange(count),
        "time": np.arange(count),
        "seen": (own[:, : 1 + seed % 6] * 10).tolist(),
        "age": rng.integers(20, 40, count).astype(float),
        "items": (np.concatenate([own[:, 6:], other], axis=1) * 10).tolist(),
        "liked": [[1.0, 1.0, 1.0, 0.0]] * count,
        "watched": [[1.0, 1.0, 0.0, 1.0]] * count,
    }
    return pa.table(rows, schema=FORMAT.request_schema())


def write_all(folder: Path, *, config: str = CONFIG, requests: int = 500) -> Path:
    """Everything that a training run reads; returns the path of its configuration."""
    pq.write_table(requests_table(requests, seed=4), folder / "requests.parquet", row_group_size=150)
    pq.write_table(requests_table(60, seed=5), folder / "later.parquet")
    pq.write_table(items_table(), folder / "items.parquet")
    (folder / "features.yaml").write_text(FEATURES)
    (folder / "train.yaml").write_text(config)
    return folder / "train.yaml"
