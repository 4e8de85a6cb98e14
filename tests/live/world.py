"""What a live catalog must look like: a dictionary of items, random writes to it, and filters in plain Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import date, timedelta
from typing import Any

import numpy as np
from catalogs import COUNTRIES, DIMENSION, TAGS
from numpy.typing import NDArray

from silverray.shard.live.writes import Delete, Patch, Upsert, Write

Fields = Mapping[str, Any]

FILTERS: dict[str | None, Callable[[Fields], bool]] = {
    None: lambda item: True,
    'country = "US"': lambda item: item["country"] == "US",
    'country = "Atlantis"': lambda item: item["country"] == "Atlantis",
    'not country in ("DE", "Atlantis")': lambda item: item["country"] not in ("DE", "Atlantis"),
    'artist = "artist 3" or artist = "new artist 1"': lambda item: item["artist"] in ("artist 3", "new artist 1"),
    'not artist in ("artist 1", "new artist 2")': lambda item: item["artist"] not in ("artist 1", "new artist 2"),
    'tags any ("jazz", "brand new") and not tags all ("jazz", "rock")': lambda item: (
        bool({"jazz", "brand new"} & set(item["tags"])) and not {"jazz", "rock"} <= set(item["tags"])
    ),
    "price between 5 and 20.5 or price is null": lambda item: item["price"] is None or 5 <= item["price"] <= 20.5,
    "rank >= 400 and live_show": lambda item: item["rank"] >= 400 and item["live_show"],
    "rank < -5 or rank between 10 and 3000000000": lambda item: (
        item["rank"] < -5 or 10 <= item["rank"] <= 3_000_000_000
    ),
    'released < date("1999-01-31")': lambda item: item["released"] is not None and item["released"] < date(1999, 1, 31),
    "year is not null and not year >= 1990": lambda item: item["year"] is not None and not item["year"] >= 1990,
}


class World:
    """Items by id: fields with None where they are missing, and vectors.

    Args:
        items: fields of the published items by id.
        vectors: `[n, D]` float32, in the same order.
    """

    def __init__(self, items: Mapping[Any, Fields], vectors: Iterable[Any]) -> None:
        self.names = list(next(iter(items.values())))
        self.fields: dict[Any, dict[str, Any]] = {id_: dict(fields) for id_, fields in items.items()}
        self.vectors = dict(zip(items, vectors, strict=True))

    def write(self, write: Write) -> None:
        match write:
            case Upsert(id=id_):
                self.fields[id_] = {name: write.fields.get(name) for name in self.names}
                self.vectors[id_] = write.vector
            case Delete(id=id_):
                self.fields.pop(id_, None)
                self.vectors.pop(id_, None)
            case Patch(id=id_) if id_ in self.fields:
                self.fields[id_].update(write.fields)

    def matching(self, filter_: str | None) -> set[int]:
        return {id_ for id_, fields in self.fields.items() if FILTERS[filter_](fields)}


def random_fields(rng: np.random.Generator) -> dict[str, Any]:
    """Values that the snapshot knows and values that it does not; nullable ones are missing now and then."""
    fields: dict[str, Any] = {
        "country": rng.choice([*COUNTRIES, "Atlantis", "Utopia"]).item(),
        "artist": f"{rng.choice(['artist', 'new artist'])} {rng.integers(5)}",
        "tags": rng.choice([*TAGS, "brand new"], rng.integers(0, 5)).tolist(),
        "year": int(rng.choice([1900, 1975, 1990, 2024, 9_999])),
        "rank": int(rng.choice([-10, 0, 5, 400, 3_000_000_000])),
        "price": float(rng.choice([-1.5, 0.0, 5.0, 20.5, 1e300])),
        "live_show": bool(rng.random() < 0.5),
        "released": date(1970, 1, 1) + timedelta(days=int(rng.integers(-30_000, 30_000))),
        "title": f"title {rng.integers(1_000)} ü",
    }
    missing = [name for name in ("country", "year", "price", "released") if rng.random() < 0.2]
    return {name: value for name, value in fields.items() if name not in missing}


def random_vector(rng: np.random.Generator) -> NDArray[np.float32]:
    """Most of them crowd into one place, whose cluster has no room for all."""
    spread = rng.choice([0.1, 3.0], p=[0.6, 0.4])
    vector: NDArray[np.float32] = (1.0 + spread * rng.standard_normal(DIMENSION)).astype(np.float32)
    return vector


def random_patch(rng: np.random.Generator) -> dict[str, Any]:
    fields = random_fields(rng)
    names = rng.choice(list(fields), rng.integers(1, 4), replace=False).tolist()
    patch = {name: fields[name] for name in names}
    if rng.random() < 0.3:
        patch["price"] = None
    return patch
