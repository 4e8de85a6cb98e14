"""Embedding tables for tests, and batches of requests for them."""

import numpy as np
import torch
from torchrec import KeyedJaggedTensor

from silverray.shard.towers.table import Table
from silverray.shard.towers.tables import keyed_jagged

TABLES = (
    Table("users", 60_000, 16, ("user", "friends"), "mean"),
    Table("films", 20_000, 16, ("history", "last"), "mean"),
    Table("tags", 3_000, 16, ("tags",), "sum"),
    Table("age", 7, 4, ("age",), "sum"),
)
"""5.1 MiB in all, the first 3.7."""

TABLE_OF = {name: table for table in TABLES for name in table.features}
SINGLE = ("user", "last", "age")
"""Features that have one id a request at most; the others have up to 12, each of them none in a third of requests."""


def make_batch(requests: int, seed: int) -> KeyedJaggedTensor:
    rng = np.random.default_rng(seed)
    columns = {}
    for name in ("tags", "history", "age", "user", "last", "friends"):
        lengths = rng.integers(1, 2 if name in SINGLE else 13, requests) * (rng.random(requests) < 2 / 3)
        ids = rng.integers(0, TABLE_OF[name].rows, int(lengths.sum()))
        columns[name] = torch.from_numpy(ids), torch.from_numpy(lengths)
    return keyed_jagged(columns)
