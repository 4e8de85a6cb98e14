"""What a GPU does without our kernels: brute force, and an inverted index of PyTorch's own operators; same run.

All are asked for the exact scores of the best items that pass; recall is against brute force in float32.
Letters: N items, D dimensions, C clusters, Q queries, P probes, L items of the longest list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from silverray.benchmarks.gpu import truth
from silverray.benchmarks.gpu.catalog import Catalog, encode, make_queries, sharing
from silverray.benchmarks.gpu.figures import Row, Rows, guarded
from silverray.benchmarks.gpu.scale import Scale, arguments
from silverray.benchmarks.gpu.timing import Captured, free_memory, time_calls
from silverray.kernels import programs
from silverray.kernels.bits import read_bits
from silverray.kernels.gpu import retrieve

TITLE = "Beside brute force and unfused operators"
COLUMNS = {
    "items": "{items:,}", "batch": "{batch}", "k": "{k}", "pass": "{share:.1%}", "contender": "{contender}",
    "recall": "{recall:.4f}", "graph us": "{us_p50:,.0f}", "p20": "{us_p20:,.0f}", "p80": "{us_p80:,.0f}",
    "this / silverray": "{ratio:.1f}", "error": "{failed}",
}  # fmt: skip
TARGET = 0.95
"""Recall at which our contender is timed: where indexes are usually compared, as in `silverray bench scan`."""
PROBES = (8, 16, 24, 32, 64, 128, 256)
"""The first that reaches the target is timed; 24 is the headline's."""
SCORED = 1 << 28
"""Scores of brute force that are held at a time."""
GATHERED = 1 << 32
"""Bytes of codes that the unfused index gathers at most."""


class _Task(NamedTuple):
    """What is asked of every contender; `passing` is `[Q, N]` bool, ready before the clock starts."""

    catalog: Catalog
    queries: Tensor
    words: Tensor
    passing: Tensor
    least: Tensor
    share: float
    k: int


def peers(scale: Scale) -> Rows:
    """The largest catalog, and the headline's."""
    for items in scale.items[:1] if scale.quick else (scale.items[2], scale.items[1]):
        for share, k in ((0.1, 100), (1.0, 100), (0.1, 1_000))[: 1 if scale.quick else None]:
            yield from ((TITLE, row) for row in _group(scale, items, min(16, max(scale.batches)), share, k))
            free_memory()


def _group(scale: Scale, items: int, batch: int, share: float, k: int) -> Iterator[Row]:
    catalog = scale.catalog(items)
    k = min(k, items // 50)
    task = _make_task(catalog, batch, share, k)
    rows = {"items": items, "batch": batch, "k": k, "share": share}
    n_probe = next((n for n in PROBES if n < len(catalog.sizes) and _recall(task, _ours(task, n)()) >= TARGET), None)
    n_probe = min(PROBES[-1], len(catalog.sizes)) if n_probe is None else n_probe
    half = catalog.vectors.to(torch.bfloat16)
    contenders: list[tuple[str, Callable[[], Tensor]]] = [
        (f"silverray, n_probe {n_probe}", _ours(task, n_probe)),
        ("brute force, bfloat16 and torch.topk", _brute_force(task, half)),
        (f"unfused index, int8, n_probe {n_probe}", _unfused(task, n_probe)),
    ]
    own = 0.0
    for name, call in contenders:
        row = guarded(rows | {"contender": name}, partial(_timed, scale, task, call))
        own = own or row.get("us_p50", 0.0)
        yield row | ({"ratio": row["us_p50"] / own} if own and "us_p50" in row else {})
        free_memory()


def _make_task(catalog: Catalog, batch: int, share: float, k: int) -> _Task:
    queries = make_queries(catalog, batch)
    words = programs.reference(catalog.planes, encode(sharing(share, batch), queries.device))
    items = torch.arange(len(catalog.codes), device=queries.device)
    passing = torch.stack([read_bits(words, torch.full_like(items, row), items) for row in range(batch)])
    least = truth.true_scores(catalog.vectors, queries, passing, k)[:, -1]
    return _Task(catalog, queries, words, passing, least, share, k)


def _recall(task: _Task, slots: Tensor) -> float:
    return truth.recall(task.catalog.vectors, task.queries, slots, task.least)


def _timed(scale: Scale, task: _Task, call: Callable[[], Tensor]) -> dict[str, Any]:
    replay = Captured(call)
    cells = time_calls([replay], 5 if scale.quick else 15, cold=True).seconds()
    return {"recall": _recall(task, replay()), **cells}


def _ours(task: _Task, n_probe: int) -> Callable[[], Tensor]:
    catalog = task.catalog
    room = min(catalog.room(n_probe), int(1.5 * task.share * catalog.room(n_probe)) + 4_096)
    its = arguments(catalog, task.queries, sharing(task.share, len(task.queries)), n_probe, task.k, room)
    return lambda: retrieve.launch(*its)[1]


def _brute_force(task: _Task, half: Tensor) -> Callable[[], Tensor]:
    """One product with all items, a mask, and the best; in parts only where memory asks for it."""
    queries, step = task.queries.to(torch.bfloat16), max(1, SCORED * 2 // len(task.queries))
    refused = ~task.passing

    def call() -> Tensor:
        scores, slots = [], []
        for start in range(0, len(half), step):
            part = slice(start, start + step)
            found = (queries @ half[part].T).masked_fill_(refused[:, part], -torch.inf)
            best = torch.topk(found, min(task.k, found.shape[1]), dim=1)
            scores.append(best.values)
            slots.append(best.indices + start)
        if len(scores) == 1:
            return slots[0]
        best = torch.topk(torch.cat(scores, dim=1), task.k, dim=1)
        return torch.cat(slots, dim=1).gather(1, best.indices)

    return call


def _unfused(task: _Task, n_probe: int) -> Callable[[], Tensor]:
    """Gather whole lists, padded to the longest; score them in half precision; mask; keep 4k; score those exactly."""
    its, queries, k = task.catalog, task.queries, task.k
    longest = int(its.sizes.max())
    if len(queries) * n_probe * longest * queries.shape[1] > GATHERED:
        raise MemoryError("the gathered lists would not fit")
    places, half = torch.arange(longest, device=queries.device), queries.to(torch.bfloat16)
    centres, coded = its.centroids.to(torch.bfloat16), half[:, :, None]
    rows = torch.arange(len(queries), device=queries.device)[:, None]

    def call() -> Tensor:
        base, chosen = torch.topk(half @ centres.T, min(n_probe, len(centres)), dim=1)
        first = its.offsets[chosen]
        slots = (first[:, :, None] + places).clamp_(max=len(its.codes) - 1).flatten(1)
        inside = (places < its.sizes[chosen][:, :, None]).flatten(1)
        found = torch.bmm(its.codes[slots].to(torch.bfloat16), coded)[:, :, 0].float() * its.scales[slots]
        found += base.float().repeat_interleave(longest, dim=1)
        found.masked_fill_(~(inside & task.passing[rows, slots]), -torch.inf)
        kept = torch.topk(found, min(4 * k, found.shape[1]), dim=1)
        slots = slots.gather(1, kept.indices)
        exact = torch.bmm(its.vectors[slots], queries[:, :, None])[:, :, 0]
        best = torch.topk(exact.masked_fill_(kept.values == -torch.inf, -torch.inf), min(k, exact.shape[1]), dim=1)
        return slots.gather(1, best.indices).masked_fill_(best.values == -torch.inf, -1)

    return call
