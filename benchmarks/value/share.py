"""What a formula takes of a request's model time: a whole shard, step by step, for `silverray bench value`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silverray.benchmarks.common.catalogs import clustered, queries
from silverray.benchmarks.common.machine import THREADS
from silverray.benchmarks.value.formula import DIMENSION, SCHEMA, TASKS, VALUE, make_contexts, make_items
from silverray.shard.engine.engine import Engine
from silverray.shard.engine.runner import Best
from silverray.shard.engine.validation import Validator
from silverray.shard.model.item_features import ItemFeatures
from silverray.shard.model.scorer_files import make_scorer, save_overarch
from silverray.shard.publish.builder import publish
from silverray.shard.value.valuer import FormulaInputs

REQUESTS, K = 64, 100
"""A router's largest batch and the k of the figures to reach."""
WARM_UP = 2
"""The first batch compiles the formula's plan and touches memory; the second allocates as all later ones."""
SPREAD = 1.3
"""Noise that tells a user's tasks apart; about 2,000 different candidates remain of the 3,000 that six tasks find."""
STEPS = ("retrieve", "unite", "score", "value", "select")
SCORERS: tuple[tuple[str, dict[str, int]], ...] = (
    ("dot_product", {}),
    ("mlp", {"hidden": 64}),
    ("mixture_of_logits", {"hidden": 64}),
)
COLUMNS = {
    "scorer": "{scorer}",
    "candidates of a request": "{candidates:,.0f}",
    "ms": "{ms:.1f}",
    **{step: f"{{{step}_ms:.1f}}" for step in STEPS},
    "value, of all": "{share:.1%}",
    "p20": "{share_p20:.1%}",
    "p80": "{share_p80:.1%}",
}


def shares(work: Path, items: int, rounds: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Search with each scorer in turn, and tell what every step took.

    Args:
        work: folder for the snapshots.
        items: how many.
        rounds: batches of each scorer.

    Returns:
        A row a scorer, and facts.
    """
    catalog = clustered(items, DIMENSION)
    engines = {name: _open(work, name, sizes, catalog.vectors) for name, sizes in SCORERS}
    users = _users(queries(catalog, REQUESTS)).reshape(-1, DIMENSION)
    plan = Validator(engines["mlp"].catalog).compile(None).plan("exact")
    asked = [FormulaInputs(None, context) for context in make_contexts(REQUESTS)]
    found: dict[str, list[Best]] = {name: [] for name in engines}
    for name in list(engines) * (rounds + WARM_UP):
        found[name].append(engines[name].best(users, [plan] * REQUESTS, [K] * REQUESTS, asked=asked))
    rows = [_row(name, its[WARM_UP:]) for name, its in found.items()]
    return rows, {"items searched": items, "dimension": DIMENSION, "tasks": len(TASKS), "k": K}


def _row(name: str, batches: list[Best]) -> dict[str, Any]:
    """Medians over batches of one scorer."""
    seconds = np.array([[stage.seconds for stage in best.stages] for best in batches])
    part = seconds[:, STEPS.index("value")] / seconds.sum(axis=1)
    share_p20, share, share_p80 = np.quantile(part, [0.2, 0.5, 0.8]).tolist()
    left = {stage.name: stage.left for stage in batches[0].stages}
    return {
        "scorer": name,
        "candidates": float(left["unite"].float().mean()),
        "ms": float(np.median(seconds.sum(axis=1))) * 1e3,
        **{f"{step}_ms": float(median) * 1e3 for step, median in zip(STEPS, np.median(seconds, axis=0), strict=True)},
        "share": share,
        "share_p20": share_p20,
        "share_p80": share_p80,
    }


def _open(work: Path, name: str, sizes: dict[str, int], vectors: NDArray[np.float32]) -> Engine:
    """A shard with an untrained scorer, which takes as long as a trained one; published once."""
    version = f"{name}-{len(vectors)}x{DIMENSION}"
    store, model = work / "value-share", work / "value-share-models" / version
    if not (store / version).exists():
        model.mkdir(parents=True, exist_ok=True)
        (model / "module_info.json").write_text(json.dumps({"tasks": list(TASKS), "dimension": DIMENSION}))
        if sizes:
            save_overarch(model, name, sizes, make_scorer(name, len(TASKS), DIMENSION, 0, sizes), ItemFeatures())
        publish(make_items(len(vectors)), SCHEMA, store, vectors=vectors, model=model, version=version)
    return Engine.open(store / version, value=VALUE, threads=THREADS)


def _users(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors `[B, T, D]` of users whose tasks want nearly the same."""
    shape = (len(vectors), len(TASKS), DIMENSION)
    users = vectors[:, None] + SPREAD * np.random.default_rng(0).standard_normal(shape) / np.sqrt(DIMENSION)
    scaled: NDArray[np.float32] = (users / np.linalg.norm(users, axis=2, keepdims=True)).astype(np.float32)
    return scaled
