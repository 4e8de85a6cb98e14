"""Catalogs and requests for tests: seeded, with every field type, near-duplicates and missing values."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from silverray.shard.api import SearchRequest
from silverray.shard.model.item_features import ItemFeatures
from silverray.shard.model.scorer_files import make_scorer, save_overarch
from silverray.shard.schema.schema import Schema

DIMENSION = 16
COUNTRIES = ["DE", "FR", "JP", "US", "Österreich"]
TAGS = ["jazz", "live", "rock", "folk", "noise"]


def schema_text(metric: str = "ip", dimension: int = DIMENSION) -> str:
    return f"""
id: id
vector: {{dimension: {dimension}, metric: {metric}}}
fields:
  country: {{type: category, nullable: true}}
  artist: {{type: category}}
  tags: {{type: tags}}
  year: {{type: int, nullable: true}}
  rank: {{type: int}}
  price: {{type: float, nullable: true}}
  live_show: {{type: bool}}
  released: {{type: date, nullable: true}}
  title: {{type: category, filter: false}}
"""


def clustered_vectors(rng: np.random.Generator, n: int, dimension: int = DIMENSION) -> NDArray[np.float32]:
    """Clusters of uneven size and spread, a tenth of them near-duplicates of another row."""
    centres = rng.normal(size=(max(1, n // 100), dimension))
    vectors = centres[rng.integers(0, len(centres), n)] + rng.normal(size=(n, dimension)) * rng.random((n, 1))
    copies = rng.random(n) < 0.1
    vectors[copies] = vectors[rng.integers(0, n, copies.sum())] + 1e-3 * rng.normal(size=(copies.sum(), dimension))
    return vectors.astype(np.float32)


def make_items(n: int, seed: int = 0, strings: bool = False) -> tuple[pa.Table, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    keys = rng.permutation(n * 3)[:n]

    def sometimes(values: Sequence[Any]) -> list[Any]:
        return [None if missing else value for value, missing in zip(values, rng.random(n) < 0.1, strict=True)]

    table = pa.table(
        {
            "id": pa.array([f"item-{key}-ü" for key in keys] if strings else keys),
            "country": pa.array(sometimes(rng.choice(COUNTRIES, n).tolist()), pa.string()),
            "artist": pa.array([f"artist {a}" for a in rng.zipf(1.3, n) % 500], pa.string()),
            "tags": pa.array([rng.choice(TAGS, rng.integers(0, 4)).tolist() for _ in range(n)], pa.list_(pa.string())),
            "year": pa.array(sometimes(rng.integers(1950, 2024, n).tolist()), pa.int64()),
            "rank": pa.array(np.argsort(rng.permutation(n))),
            "price": pa.array(sometimes(rng.gamma(2, 10, n).round(2).tolist()), pa.float64()),
            "live_show": pa.array(rng.random(n) < 0.3),
            "released": pa.array(sometimes(rng.integers(0, 20_000, n).tolist()), pa.int32()).cast(pa.date32()),
            "title": pa.array([f"title {key} é" for key in keys], pa.string()),
        }
    )
    return table, clustered_vectors(rng, n)


def write_tasks(folder: Path, tasks: Sequence[str]) -> Path:
    """A model directory that says no more than which tasks there are."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "module_info.json").write_text(json.dumps({"tasks": list(tasks), "dimension": DIMENSION}))
    return folder


FEATURES = [
    {"field": "rank", "transform": "log1p", "scale": 8.0},
    {"field": "year", "transform": "buckets", "boundaries": [1970, 1990, 2010]},
]


def write_scorer(folder: Path, tasks: Sequence[str], kind: str) -> Path:
    """The same with a scorer, whose weights all matter."""
    write_tasks(folder, tasks)
    torch.manual_seed(0)
    features = ItemFeatures.of(FEATURES).check(Schema.parse(schema_text()))
    scorer = make_scorer(kind, len(tasks), DIMENSION, features.width, {"hidden": 16})
    with torch.no_grad():
        for weight in scorer.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    save_overarch(folder, kind, {"hidden": 16}, scorer, features)
    return folder


def write_set_wise(folder: Path, tasks: Sequence[str]) -> Path:
    """The same with self-attention."""
    return write_scorer(folder, tasks, "self_attention")


FILTERS = [
    None,
    'country = "US"',
    'country != "US" and year >= 1990',
    'not country in ("DE", "Österreich")',
    'artist = "artist 3"',
    'not artist in ("artist 1", "artist 2")',
    'tags any ("jazz", "live") and not tags all ("jazz", "rock")',
    "price between 5 and 20.5 or price is null",
    "rank < 700 and live_show",
    'released < date("1999-01-31") and not (year < 1970 or live_show)',
    "year is null",
]


def make_requests(
    count: int, seed: int, ks: Sequence[int] = (1, 10, 100), tasks: int = 1, **options: Any
) -> list[SearchRequest]:
    """Seeded requests with mixed filters and k."""
    rng = np.random.default_rng(seed)
    vectors = clustered_vectors(rng, count * tasks).reshape(count, tasks, DIMENSION)
    return [
        SearchRequest(
            vectors=vectors[row],
            filter=FILTERS[int(rng.integers(len(FILTERS)))],
            k=int(rng.choice(ks)),
            **options,
        )
        for row in range(count)
    ]
