"""A value model of ten terms with conditions, against NumPy doing the same: `silverray bench value`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silverray.benchmarks.common.machine import with_threads
from silverray.benchmarks.common.measure import interleave, ratio
from silverray.benchmarks.common.report import Report
from silverray.benchmarks.value.formula import FORMULA, SCHEMA, SCOPE, TASKS, make_contexts, make_items
from silverray.benchmarks.value.share import COLUMNS as SHARE_COLUMNS
from silverray.benchmarks.value.share import REQUESTS, shares
from silverray.shard.schema.arrow import read_columns
from silverray.shard.schema.columns import Columns
from silverray.shard.schema.keys import hash_text
from silverray.shard.value.inputs import Values, gather_fields, read_requests
from silverray.shard.value.model import ValueModel

TITLE = "A value model of ten terms"
CANDIDATES, ITEMS, SEARCHED = 2_000, 1_000_000, 200_000
"""Candidates of six tasks together (`share.SPREAD`); columns of a million items are in no cache. Fewer are searched,
as they must be published first."""
QUICK_CANDIDATES, QUICK_ITEMS, QUICK_SEARCHED = 200, 10_000, 5_000
"""To see that every row can be measured."""
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
    """Run the benchmark; `work` keeps the snapshots that are searched."""
    candidates, items = (QUICK_CANDIDATES, QUICK_ITEMS) if quick else (CANDIDATES, ITEMS)
    report = Report("value", TITLE, "silverray bench value", quick=quick)
    case, model = make_case(candidates, items), ValueModel(FORMULA, SCOPE)
    report.facts({"formula": model.text, "items": items, "fields": model.fields})
    rows = [row for threads in (1, 2) for row in _measure(case, model, threads, rounds=5 if quick else 51)]
    report.table(f"{REQUESTS} requests of {candidates:,} candidates", COLUMNS, rows)
    rows, facts = shares(work, QUICK_SEARCHED if quick else SEARCHED, rounds=3 if quick else 25)
    report.facts(facts)
    report.table(f"a whole shard, batches of {REQUESTS} requests, step by step in ms", SHARE_COLUMNS, rows)
    return report


def make_case(candidates: int, items: int, seed: int = 0) -> Case:
    """Seeded predictions, items and requests."""
    rng = np.random.default_rng(seed)
    contexts = make_contexts(REQUESTS)
    users = [{"country": context["user.country"], "age": context["user.age"]} for context in contexts]
    names = [name for name in SCOPE.names if "." in name]
    return Case(
        torch.from_numpy(rng.random((REQUESTS, candidates, len(TASKS)), dtype=np.float32)),
        read_columns(make_items(items), SCHEMA),
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
