"""A user tower for the tests' films, trained on nothing."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from silverray.shard.schema.user_features import (
    BucketFeature,
    CategoryFeature,
    HashFeature,
    HistoryFeature,
    UserFeatures,
)
from silverray.shard.towers.encoder import save_model
from silverray.shard.towers.table import Table
from silverray.shard.towers.towers import TowerShape, UserTower

AGES, COUNTRIES, USERS = BucketFeature((18, 25, 40)), CategoryFeature(("US", "FR", "DE")), HashFeature("int", 4_000)


def save_tower(folder: Path, keys: NDArray[np.int64], dimension: int) -> Path:
    """Save a tower with a history, an age, a country and a user id; its tables take 640 KB and more."""
    tables = (
        Table("films", len(keys) + 1, 16, ("history",), "mean"),
        Table("users", USERS.size, 32, ("user",), "sum"),
        Table("age", AGES.size, 4, ("age",), "sum"),
        Table("country", COUNTRIES.size, 4, ("country",), "sum"),
    )
    torch.manual_seed(7)
    tower = UserTower(TowerShape(tables, hidden=32, dimension=dimension))
    features = UserFeatures(
        "history", HistoryFeature("int", length=20, required=False), {"age": AGES, "country": COUNTRIES, "user": USERS}
    )
    save_model(folder, tower, features, keys, {"default": 0})
    return folder
