"""Explanations: how the answer to a request was found, as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from silverray.kernels.bits import count_ranges
from silverray.kernels.programs import evaluate_programs
from silverray.shard.filter.compiler import Plan as FilterPlan
from silverray.shard.index.planner import Plan
from silverray.shard.model.search import Answers
from silverray.shard.model.shard_model import ShardModel
from silverray.shard.model.stage_times import Stage


@torch.inference_mode()
def explain_search(
    model: ShardModel, compiled: FilterPlan, queries: Tensor, n_probe: int | None, found: Answers, rows: slice
) -> dict[str, Any]:
    """Say what was visited for a request.

    Args:
        model: what searched.
        compiled: the request's filter.
        queries: `[T, D]` float32, its vectors.
        n_probe: clusters that it asked for.
        found: what was found for the queries of a batch.
        rows: the request's among them.

    Returns:
        `probes` and `scored` are sums over the tasks.
    """
    lists, device = model.lists, model.lists.planes.device
    programs = torch.from_numpy(compiled.program)[None].to(device)
    filters = torch.zeros(len(queries), dtype=torch.int64, device=device)
    passing = count_ranges(evaluate_programs(lists.planes, programs), lists.offsets)[0]
    probes = model.retrieval.planner.probes(Plan(*(part[rows] for part in found.plan)), queries, programs, filters)
    survivors, widened = found.plan.survivors[rows], found.widened[rows]
    everything = survivors | widened if n_probe is None else survivors
    clusters = [
        len(passing) if every else int((mine >= 0).sum()) for every, mine in zip(everything, probes, strict=True)
    ]
    scored = [
        int(passing.sum() if every else passing[mine[mine >= 0]].sum())
        for every, mine in zip(everything, probes, strict=True)
    ]
    return {
        "plan": "survivors" if bool(everything.all()) else "probe",
        "widened": bool(widened.any()),
        "probes": sum(clusters),
        "clusters": len(passing),
        "passing": int(passing.sum()),
        "selectivity": int(passing.sum()) / max(1, len(lists)),
        "scored": sum(scored),
        "verified": compiled.check is not None,
    }


def explain_stages(stages: Sequence[Stage], row: int, entered: int, answered: int) -> list[dict[str, Any]]:
    """Say what each step did: its time for the whole batch, and how many candidates of a request came in and went out.

    Args:
        stages: the steps, in order.
        row: the request's place in the batch.
        entered: how many items the first step looked at.
        answered: how many the last one left; it is cut to what the request wants.
    """
    entries = []
    for place, stage in enumerate(stages, 1):
        left = answered if place == len(stages) else int(stage.left[row])
        entries.append({"stage": stage.name, "ms": round(stage.seconds * 1e3, 3), "in": entered, "out": left})
        entered = left
    return entries
