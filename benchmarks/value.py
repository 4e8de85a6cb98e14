"""A value model of ten terms with conditions, against NumPy doing the same: `silverray bench value`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silverray.benchmarks.machine import with_threads
from silverray.benchmarks.measure import interleave, ratio
from silverray.benchmarks.report import Report
from silverray.shard.filter.columns import Column, Columns
from silverray.shard.filter.schema import Field, Schema
from silverray.shard.index.keys import hash_text, hash_texts
from silverray.shard.value.inputs import Values, gather_fields, read_requests
from silverray.shard.value.model import ValueModel
from silverray.shard.value.scope import Scope

TITLE = "A value model of ten terms"
REQUESTS, CANDIDATES, ITEMS = 64, 2_000, 1_000_000
QUICK_CANDIDATES, QUICK_ITEMS = 200, 10_000
TASKS = ("click", "like", "share", "comment", "follow", "hide")
COUNTRIES = [f"C{number}" for number in range(40)]
SCHEMA = Schema.parse(
    """
    id: id
    vector: {dimension: 2, metric: ip}
    fields:
      country: {type: category}
      duration: {type: int, nullable: true}
      quality: {type: float}
      released: {type: date}
      live: {type: bool}
    """
)
SCOPE = Scope(
    TASKS,
    SCHEMA,
    user={"country": Field(type="category"), "age": Field(type="int", nullable=True)},
    context={"hour": Field(type="int"), "today": Field(type="date")},
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
COLUMNS = {
    "contender": "{contender}",
    "threads": "{threads:d}",
    "ms": "{ms_p50:.2f}",
    "p20": "{ms_p20:.2f}",
    "p80": "{ms_p80:.2f}",
    "ns a candidate": "{ns:.1f}",
    "NumPy / this": "{ratio:.2f}",
}


class Case(NamedTuple):
    """What is scored: predictions `[B, K, T]`, a shard's columns, `[B, K]` slots, and what the requests say."""

    predictions: Tensor
    columns: Columns
    slots: Tensor
    inputs: dict[str, Values]


def run(work: Path, *, quick: bool = False) -> Report:
    """Run the benchmark; `work` is not used, the data are made in a second."""
    candidates, items = (QUICK_CANDIDATES, QUICK_ITEMS) if quick else (CANDIDATES, ITEMS)
    report = Report("value", TITLE, "silverray bench value", quick=quick)
    case, model = make_case(candidates, items), ValueModel(FORMULA, SCOPE)
    report.facts({"formula": model.text, "items": items, "fields": model.fields})
    rows = [row for threads in (1, 2) for row in _measure(case, model, threads, rounds=5 if quick else 51)]
    report.table(f"{REQUESTS} requests of {candidates:,} candidates", COLUMNS, rows)
    return report


def make_case(candidates: int, items: int, seed: int = 0) -> Case:
    """Seeded predictions, items and requests."""
    rng = np.random.default_rng(seed)
    present = torch.from_numpy(rng.random(items) < 0.9)
    columns = {
        "country": Column(torch.from_numpy(hash_texts(COUNTRIES)[rng.integers(0, len(COUNTRIES), items)])),
        "duration": Column(torch.from_numpy(rng.integers(1, 3_600, items)) * present, present),
        "quality": Column(torch.from_numpy(rng.random(items))),
        "released": Column(torch.from_numpy(rng.integers(19_000, 20_000, items))),
        "live": Column(torch.from_numpy(rng.integers(0, 2, items))),
    }
    users = [{"country": COUNTRIES[row % 40], "age": None if row % 9 == 0 else 10 + row} for row in range(REQUESTS)]
    contexts = [{"hour": row % 24, "today": "2024-10-04"} for row in range(REQUESTS)]
    names = [name for name in SCOPE.names if "." in name]
    return Case(
        torch.from_numpy(rng.random((REQUESTS, candidates, len(TASKS)), dtype=np.float32)),
        Columns(items, columns),
        torch.from_numpy(rng.integers(0, items, (REQUESTS, candidates))),
        read_requests(SCOPE.user, users, "user", names) | read_requests(SCOPE.context, contexts, "context", names),
    )


def _measure(case: Case, model: ValueModel, threads: int, rounds: int) -> list[dict[str, Any]]:
    fields = gather_fields(case.columns, case.slots, model.fields)
    arrays = {name: _arrays(value) for name, value in fields.items()}
    inputs = {name: _arrays(value) for name, value in case.inputs.items()}
    predictions = case.predictions.numpy()
    found = model(case.predictions, fields, case.inputs).numpy()
    np.testing.assert_allclose(found, score_with_numpy(predictions, arrays, inputs), rtol=1e-4, atol=1e-5)
    contenders = {
        "silverray": with_threads(lambda: model(case.predictions, fields, case.inputs), threads),
        "silverray, fields gathered": with_threads(
            lambda: model(case.predictions, gather_fields(case.columns, case.slots, model.fields), case.inputs),
            threads,
        ),
        "NumPy": lambda: score_with_numpy(predictions, arrays, inputs),
    }
    timings = interleave(contenders, rounds=rounds, warmup=3)
    return [
        {
            "contender": contender,
            "threads": 1 if contender == "NumPy" else threads,
            **timing.seconds(1e-3, "ms"),
            "ns": timing.p50_s * 1e9 / found.size,
            "ratio": ratio(timings["NumPy"], timing),
        }
        for contender, timing in timings.items()
    ]


def _arrays(values: Values) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    return values.values.numpy(), None if values.present is None else values.present.numpy()


def score_with_numpy(
    predictions: NDArray[np.float32],
    fields: dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]],
    inputs: dict[str, tuple[NDArray[Any], NDArray[np.bool_] | None]],
) -> NDArray[np.float32]:
    """`FORMULA` as one would write it in NumPy.

    Args:
        predictions: `[B, K, T]`.
        fields: `[B, K]` values and presence by name.
        inputs: `[B]` values and presence by full name.

    Returns:
        `[B, K]` float32.
    """
    click, like, share, comment, follow, hide = np.moveaxis(predictions, 2, 0)
    country, released = fields["country"][0], fields["released"][0]
    duration, known = (part for part in fields["duration"] if part is not None)
    quality, live = fields["quality"][0].astype(np.float32), fields["live"][0] != 0
    home, hour, today = (inputs[name][0][:, None] for name in ("user.country", "context.hour", "context.today"))
    age, has_age = (part[:, None] for part in inputs["user.age"] if part is not None)
    one, codes = np.float32(1.0), [hash_text(name) for name in ("C1", "C2", "C3")]
    days = (today - released).astype(np.float32)
    score: NDArray[np.float32] = (
        click
        + np.float32(4) * share * (country == home)
        + np.where((duration > 600) & known, np.float32(0.2), one) * like
        + np.float32(2) * comment * np.isin(country, codes)
        + np.float32(3) * follow * np.exp(-np.maximum(days, 0) / np.float32(30))
        + np.float32(0.5) * np.log1p(np.maximum(quality, 0)) * click
        + np.where(live & (hour >= 18) & (hour <= 23), np.float32(1.5), one) * share
        + np.float32(0.1) * np.minimum(duration.astype(np.float32) / np.float32(60), 10) * like
        + np.where((has_age & (age < 18)) | (quality < 0.1), -one, np.float32(0)) * comment
        - np.float32(8) * np.clip(hide, 0, 1) * ~live
    )
    return score
