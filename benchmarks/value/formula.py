"""The formula that `silverray bench value` measures, what it reads, and items and requests to value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from silverray.shard.schema.schema import Schema
from silverray.shard.value.scope import Scope
from silverray.shard.value.settings import ValueSettings

TASKS = ("click", "like", "share", "comment", "follow", "hide")
COUNTRIES = [f"C{number}" for number in range(40)]
DIMENSION = 64
"""No formula reads vectors; the search around it should take a usual part of the time."""
SCHEMA = Schema.parse(
    f"""
    id: id
    vector: {{dimension: {DIMENSION}, metric: ip}}
    fields:
      country: {{type: category}}
      duration: {{type: int, nullable: true}}
      quality: {{type: float}}
      released: {{type: date}}
      live: {{type: bool}}
    """
)
FORMULA = """
    1.0 * click
    + 4.0 * share * (country == user.country)
    + if(duration > 600, 0.2, 1.0) * like
    + 2.0 * comment * (country in ("C1", "C2", "C3"))
    + 3.0 * follow * exp(-max(context.today - released, 0) / 30)
    + 0.5 * log1p(max(quality, 0)) * click
    + if(live and context.hour between 18 and 23, 1.5, 1.0) * share
    + 0.1 * min(coalesce(duration, 0) / 60, 10) * like
    + if(user.age < 18 or quality < 0.1, -1.0, 0.0) * comment
    - 8.0 * clamp(hide, 0, 1) * (not live)
"""
VALUE = ValueSettings.model_validate(
    {
        "default": FORMULA,
        "user": {"country": {"type": "category"}, "age": {"type": "int", "nullable": True}},
        "context": {"hour": {"type": "int"}, "today": {"type": "date"}},
    }
)
SCOPE = Scope(
    TASKS,
    SCHEMA,
    user={name: its.field() for name, its in VALUE.user.items()},
    context={name: its.field() for name, its in VALUE.context.items()},
)


def make_items(count: int, seed: int = 0) -> pa.Table:
    """Seeded items: the id and the fields, a row each."""
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "id": np.arange(count),
            "country": pa.array(COUNTRIES).take(pa.array(rng.integers(0, len(COUNTRIES), count))),
            "duration": pa.array(rng.integers(1, 3_600, count), mask=rng.random(count) < 0.1),
            "quality": rng.random(count),
            "released": pa.array(rng.integers(19_000, 20_000, count).astype(np.int32), pa.date32()),
            "live": pa.array(rng.integers(0, 2, count).astype(np.bool_)),
        }
    )


def make_contexts(count: int) -> list[dict[str, Any]]:
    """The contexts of requests, with what formulas read of their users under `user.NAME`."""
    return [
        {
            "user.country": COUNTRIES[row % 40],
            "user.age": None if row % 9 == 0 else 10 + row,
            "hour": row % 24,
            "today": "2024-10-04",
        }
        for row in range(count)
    ]
