"""What updates cost a shard and how soon they are seen: `silverray bench live`.

Searches run in a closed loop, batches of 64 with k = 100 and default settings, in one process with the writer, on two
threads. Windows with and without writes take turns; the loss is that of each pair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from silverray.benchmarks.live_load import BATCH, BODY, K, LiveShard, Window
from silverray.benchmarks.processes import resident_bytes
from silverray.benchmarks.report import Report
from silverray.benchmarks.truth import TOLERANCE, brute_force
from silverray.shard.live.writes import Write

TITLE = "A shard under updates"
RATES = (100, 600, 2_000)
TURNOVER = 0.5
RESAMPLES = 2_000
LOSS = {
    "writes": "{writes}",
    "items/s": "{rate:,.0f}",
    "queries/s": "{qps:,.0f}",
    "without writes": "{qps_without:,.0f}",
    "loss": "{loss:.1%}",
    "95 % from": "{loss_low:.1%}",
    "to": "{loss_high:.1%}",
    "seen after, median ms": "{seen_p50:.1f}",
    "p99": "{seen_p99:.1f}",
}
TURNED = {
    "state": "{state}",
    "recall@10": "{recall_10:.4f}",
    "recall@100": "{recall_100:.4f}",
    "items": "{items:,}",
    "slots": "{slots:,}",
    "not in nearest cluster": "{strays:,}",
    "resident MiB": "{mib:,.0f}",
}
COST = {
    "writes": "{writes}",
    "CPU us an item": "{cpu_us:.0f}",
    "longest that searches waited ms": "{edit_ms:.2f}",
}
COMPACTION = {
    "while": "{name}",
    "batches": "{batches:,}",
    "median ms": "{p50:.2f}",
    "p99 ms": "{p99:.2f}",
    "worst ms": "{worst:.2f}",
    "seconds": "{seconds:.2f}",
}


class Scale(NamedTuple):
    """How much is measured."""

    items: int
    dimension: int
    clusters: int
    queries: int
    pairs: int
    seconds: float
    bodies: int


FULL = Scale(items=400_000, dimension=64, clusters=1_024, queries=512, pairs=9, seconds=4.0, bodies=100)
QUICK = Scale(items=6_000, dimension=32, clusters=64, queries=128, pairs=2, seconds=0.3, bodies=4)


def run(work: Path, *, quick: bool = False) -> Report:
    """Run the benchmark; `work` keeps the snapshot."""
    scale = QUICK if quick else FULL
    shard = LiveShard(work, scale.items, scale.dimension, scale.clusters, scale.queries)
    report = Report("live", TITLE, "silverray bench live", quick=quick)
    report.facts(scale._asdict() | {"writes handed over together": BODY, "queries of a batch": BATCH, "k": K})
    shard.search(scale.seconds)
    before = _state("as published", shard)
    cases: list[tuple[str, int, Callable[[int], list[Write]]]] = [
        ("a new item for an old one", rate, shard.turn_over) for rate in RATES
    ]
    cases.append(("one attribute", RATES[1], shard.flip))
    makers = {name: make for name, _, make in cases}
    report.table("writes alone", COST, [_cost(shard, name, make, scale.bodies) for name, make in makers.items()])
    report.table("queries and writes at the same time", LOSS, [_measure(shard, scale, *case) for case in cases])
    report.table("recall", TURNED, [before, _turned(shard, scale)])
    report.table("compaction", COMPACTION, _compaction(shard, scale))
    report.facts({"what writes did": shard.status().outcome._asdict()})
    return report


def loss_interval(ratios: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """The median loss of pairs, `1 - ratio`, and where it lies with 95 % certainty (bootstrap)."""
    losses = 1 - np.array(ratios)
    drawn = np.random.default_rng(seed).choice(losses, (RESAMPLES, len(losses)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975]).tolist()
    return float(np.median(losses)), low, high


def _measure(
    shard: LiveShard, scale: Scale, writes: str, rate: int, make: Callable[[int], list[Write]]
) -> dict[str, Any]:
    pairs: list[tuple[Window, Window]] = []
    for number in range(scale.pairs):
        # The second of two windows may meet a warmer or a busier machine: they swap places.
        order = (0, rate) if number % 2 else (rate, 0)
        windows = {each: shard.search(scale.seconds, each, make) for each in order}
        pairs.append((windows[0], windows[rate]))
    loss, low, high = loss_interval([with_.qps / without.qps for without, with_ in pairs])
    seen = np.concatenate([with_.visible_s for _, with_ in pairs]) * 1e3
    return {
        "writes": writes,
        "rate": rate,
        "qps": float(np.median([with_.qps for _, with_ in pairs])),
        "qps_without": float(np.median([without.qps for without, _ in pairs])),
        "loss": loss,
        "loss_low": low,
        "loss_high": high,
        "seen_p50": float(np.quantile(seen, 0.5)),
        "seen_p99": float(np.quantile(seen, 0.99)),
    }


def _cost(shard: LiveShard, writes: str, make: Callable[[int], list[Write]], bodies: int) -> dict[str, Any]:
    given = [make(BODY) for _ in range(bodies)]
    began = time.process_time()
    for body in given:
        shard.write(body)
    cpu_us = (time.process_time() - began) * 1e6 / (bodies * BODY)
    return {"writes": writes, "cpu_us": cpu_us, "edit_ms": shard.status().longest_edit_s * 1e3}


def _turned(shard: LiveShard, scale: Scale) -> dict[str, Any]:
    while shard.replaced < TURNOVER * scale.items:
        shard.write(shard.turn_over(BODY))
    return _state(f"{shard.replaced / scale.items:.0%} turned over", shard)


def _state(name: str, shard: LiveShard) -> dict[str, Any]:
    status, found = shard.status(), shard.found(K)
    return {
        "state": name,
        "recall_10": _recall(shard, found[:, :10]),
        "recall_100": _recall(shard, found),
        "items": status.items,
        "slots": status.slots,
        "strays": status.strays,
        "mib": resident_bytes() / 2**20,
    }


def _recall(shard: LiveShard, found: NDArray[np.float32]) -> float:
    k = found.shape[1]
    truth = brute_force(shard.vectors, shard.queries, k, shard.held())
    return float((found >= truth.scores[:, -1:] - TOLERANCE).mean())


def _compaction(shard: LiveShard, scale: Scale) -> list[dict[str, Any]]:
    rows = []
    for name, window in (
        ("searching alone", shard.search(scale.seconds)),
        ("the arrays are made anew", shard.search_during(shard.compact)),
    ):
        times = np.array(window.batches_s) * 1e3
        p50, p99 = np.quantile(times, [0.5, 0.99]).tolist()
        cells = {"p50": p50, "p99": p99, "worst": float(times.max()), "seconds": window.seconds}
        rows.append({"name": name, "batches": len(times)} | cells)
    return rows
