"""A catalog with every kind of field, part of it written after the plane layout was frozen."""

from __future__ import annotations

import datetime
import math
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray

from silverray.kernels.bits import transpose_bits
from silverray.kernels.programs import evaluate_programs
from silverray.shard.filter.compiler import CompiledFilter, Plan, compile_filter
from silverray.shard.filter.layout import LIVE, PlaneLayout
from silverray.shard.filter.verification import matches
from silverray.shard.schema.arrow import read_columns
from silverray.shard.schema.columns import Columns
from silverray.shard.schema.schema import Schema

PUBLISHED, LATER = 1_201, 300

SCHEMA = Schema.parse(
    """
    id: item
    vector: {dimension: 4, metric: ip}
    fields:
      color: {type: category, nullable: true}
      maker: {type: category}
      owner: {type: category, nullable: true}
      genres: {type: tags, nullable: true}
      words: {type: tags}
      year: {type: int, nullable: true}
      stamp: {type: int}
      price: {type: float, nullable: true}
      grade: {type: float}
      released: {type: date, nullable: true}
      nsfw: {type: bool, nullable: true}
      adult: {type: bool}
    """,
    "catalog.yaml",
)

TYPES = {
    "color": pa.string(),
    "maker": pa.large_string(),
    "owner": pa.string(),
    "genres": pa.list_(pa.string()),
    "words": pa.large_list(pa.string()),
    "year": pa.int16(),
    "stamp": pa.int64(),
    "price": pa.float64(),
    "grade": pa.float64(),
    "released": pa.date32(),
    "nsfw": pa.bool_(),
    "adult": pa.bool_(),
}

Row = dict[str, Any]

COLORS = ["red", "green", "", 'a "quoted" one', "it's", "日本", "\U0001f3b7 jazz", "back\\slash"]
GENRES = ["drama", "comedy", "war", "noir", "film à clef", "x"]


def make_row(rng: random.Random, later: bool) -> Row:
    """A random item; a later one may have values that no published one has."""

    def maybe(value: Any) -> Any:
        return None if rng.random() < 0.2 else value

    new = later and rng.random() < 0.5
    day = datetime.date(1800, 1, 1) if new else datetime.date(1990, 1, 1)
    return {
        "color": maybe(f"new {rng.randrange(20)}" if new else rng.choice(COLORS)),
        "maker": f"maker {rng.randrange(2000 if later else 700)}",
        "owner": maybe(f"owner {rng.randrange(3000 if later else 600)}"),
        "genres": maybe([f"new {rng.randrange(9)}" if new else rng.choice(GENRES) for _ in range(rng.randrange(4))]),
        "words": [f"w{rng.randrange(1200 if later else 900)}" for _ in range(rng.randrange(6))],
        "year": maybe(rng.randrange(1800, 2200) if new else rng.randrange(1970, 2021)),
        "stamp": rng.choice([-(2**63), 2**63 - 1, rng.randrange(-(2**63), 2**63), rng.randrange(-50, 50)])
        if later
        else rng.randrange(-(2**40), 2**40),
        "price": maybe(rng.choice([-math.inf, math.inf, -5.0, 1e300, 0.0]) if new else _price(rng)),
        "grade": float(rng.randrange(-9, 20) / 2) if new else rng.randrange(0, 11) / 2,
        "released": maybe(day + datetime.timedelta(days=rng.randrange(200_000 if new else 9_000))),
        "nsfw": maybe(rng.random() < 0.5),
        "adult": rng.random() < 0.1,
    }


def _price(rng: random.Random) -> float:
    return rng.choice([math.nan, 0.0, -0.0, 5.0, 20.0, rng.random(), round(rng.uniform(0, 100), 2)])


def to_table(rows: list[Row]) -> pa.Table:
    return pa.table({name: pa.array([row[name] for row in rows], type_) for name, type_ in TYPES.items()})


@dataclass(frozen=True)
class Catalog:
    rows: list[Row]
    schema: Schema
    columns: Columns
    layout: PlaneLayout
    planes: torch.Tensor
    live: NDArray[np.bool_]

    def compile(self, text: str) -> CompiledFilter:
        return compile_filter(text, self.schema, self.layout)

    def bits(self, plan: Plan) -> NDArray[np.bool_]:
        """The slots whose bit is set."""
        words = evaluate_programs(self.planes, torch.from_numpy(plan.program)[None])
        every = np.unpackbits(words.numpy().view(np.uint8), bitorder="little").astype(bool)
        assert not every[len(self.rows) :].any()
        return every[: len(self.rows)]

    def shown(self, plan: Plan) -> NDArray[np.bool_]:
        """The slots that a search would show: those whose bit is set and that pass the check."""
        result = self.bits(plan)
        if plan.check is not None:
            slots = torch.from_numpy(np.flatnonzero(result))
            result[slots.numpy()] = matches(plan.check, self.columns, self.planes, slots).numpy()
        return result


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    rng = random.Random(7)
    published = [make_row(rng, later=False) for _ in range(PUBLISHED)]
    later = [make_row(rng, later=True) for _ in range(LATER)]
    first = read_columns(to_table(published), SCHEMA)
    columns = Columns.concat([first, read_columns(to_table(later), SCHEMA)])
    layout = PlaneLayout.choose(SCHEMA, first)
    planes = transpose_bits(layout.encode(columns), layout.rows)
    live = np.array([rng.random() < 0.97 for _ in range(columns.items)])
    padded = np.zeros(planes.shape[1] * 64, dtype=bool)
    padded[: len(live)] = live
    planes[LIVE] = torch.from_numpy(np.packbits(padded, bitorder="little").view(np.int64))
    return Catalog(published + later, SCHEMA, columns, layout, planes, live)
