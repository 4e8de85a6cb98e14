"""What updates cost searches and how soon they are seen, in a shard and over HTTP: `silverray bench live`.

In the shard, searches run in a closed loop, batches of 64 with k = 100 and default settings, in one process with the
writer, on two threads. Over HTTP, 64 clients ask in a closed loop. Windows with and without writes take turns; the loss
is that of each pair.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from silverray.benchmarks.common.processes import resident_bytes
from silverray.benchmarks.common.report import Report
from silverray.benchmarks.common.truth import brute_force
from silverray.benchmarks.live.http import HttpWindow, served
from silverray.benchmarks.live.items import Floats, LiveItems
from silverray.benchmarks.live.load import BATCH, BODY, K, LiveShard, Maker, ShardWindow
from silverray.cluster.loadtest.truth import TIE

TITLE = "Updates, in a shard and over HTTP"
RATES = (100, 600, 2_000)
"""Writes a second: a quiet catalog, the figure to reach, and one well beyond it."""
TURNOVER = 0.5
"""Part of the items that is replaced before recall is measured again, without a compaction (decision 10.1)."""
RESAMPLES = 2_000
"""Fifty of them lie beyond each bound of the 95 %."""
WARM_UP_S = 4.0
"""Some hundred batches: kernels are loaded and memory is touched."""
ALONE_S = 2.0
"""Once before each compaction: five times make a thousand batches, ten of them beyond the p99."""
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
HTTP_LOSS = {
    **{title: cell for title, cell in LOSS.items() if not title.startswith(("seen", "p99"))},
    "acknowledged after, median ms": "{acknowledged_p50:.1f}",
    "p99": "{acknowledged_p99:.1f}",
    "then seen after, median ms": "{visible_p50:.1f}",
    "its p99": "{visible_p99:.1f}",
    "wrong": "{wrong}",
}
COST = {
    "writes": "{writes}",
    "CPU us an item": "{cpu_us:.0f}",
    "longest that searches waited ms": "{edit_ms:.2f}",
}
HTTP_COST = {
    "writes": "{writes}",
    "router": "{router:.0f}",
    "shards": "{shards:.0f}",
    "log": "{log:.0f}",
    "HAProxy": "{haproxy:.0f}",
    "rest of Ray": "{ray:.0f}",
}
COMPACTION = {
    "while": "{name}",
    "batches": "{batches:,}",
    "median ms": "{batch_p50:.2f}",
    "p99 ms": "{batch_p99:.2f}",
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
    compactions: int
    http_pairs: int
    http_seconds: float


FULL = Scale(400_000, 64, 1_024, 512, 30, 1.0, bodies=100, compactions=5, http_pairs=8, http_seconds=2.0)
QUICK = Scale(6_000, 32, 64, 128, 1, 1.0, bodies=4, compactions=1, http_pairs=1, http_seconds=0.5)


def run(work: Path, *, quick: bool = False) -> Report:
    """Run the benchmark; `work` keeps the snapshot."""
    scale = QUICK if quick else FULL
    report = Report("live", TITLE, "silverray bench live", quick=quick)
    report.facts(scale._asdict() | {"writes handed over together": BODY, "queries of a batch": BATCH, "k": K})
    _in_shard(work, scale, report)
    _over_http(work, scale, report)
    return report


def loss_interval(ratios: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """The median loss of pairs, `1 - ratio`, and where it lies with 95 % certainty (bootstrap)."""
    losses = 1 - np.array(ratios)
    drawn = np.random.default_rng(seed).choice(losses, (RESAMPLES, len(losses)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975]).tolist()
    return float(np.median(losses)), low, high


def _in_shard(work: Path, scale: Scale, report: Report) -> None:
    items = LiveItems(scale.items, scale.dimension, scale.queries)
    shard = LiveShard(items.publish(work, scale.clusters), items)
    shard.search(WARM_UP_S)
    before = _state("as published", shard, items)
    costs = [_cost(shard, name, make, scale.bodies) for name, make in _makers(items).items()]
    report.table("in the shard, writes alone", COST, costs)

    def search(rate: float, make: Maker) -> tuple[float, ShardWindow]:
        window = shard.search(scale.seconds, rate, make)
        return window.qps, window

    rows = []
    for name, rate, make in _cases(items):
        row, windows = _pairs(name, rate, make, scale.pairs, search)
        rows.append(row | _quantiles("seen", [s for window in windows for s in window.visible_s]))
    report.table("in the shard, queries and writes at the same time", LOSS, rows)
    report.table("recall", TURNED, [before, _turned(shard, items, scale)])
    report.table("compaction", COMPACTION, _compaction(shard, scale.compactions))
    report.facts({"what writes did": shard.status().outcome._asdict()})


def _over_http(work: Path, scale: Scale, report: Report) -> None:
    items = LiveItems(scale.items, scale.dimension, scale.queries)
    with served(items.publish(work, scale.clusters), items) as service:

        def search(rate: float, make: Maker) -> tuple[float, HttpWindow]:
            window = service.search(scale.http_seconds, rate, make)
            return window.traffic.rate, window

        search(0, items.turn_over)
        costs = [
            {"writes": name, **service.cost(4 * scale.http_seconds, RATES[1], make)}
            for name, make in _makers(items).items()
        ]
        report.table("over HTTP, CPU us an item, writes alone", HTTP_COST, costs)
        rows = []
        for name, rate, make in _cases(items):
            row, windows = _pairs(name, rate, make, scale.http_pairs, search)
            seen = [one for window in windows for one in window.seen]
            row |= _quantiles("acknowledged", [one.acknowledged_s for one in seen])
            row |= _quantiles("visible", [one.visible_s for one in seen])
            rows.append(row | {"wrong": sum(window.traffic.wrong for window in windows)})
        report.table("over HTTP, searches and writes at the same time", HTTP_LOSS, rows)


def _makers(items: LiveItems) -> dict[str, Maker]:
    return {"a new item for an old one": items.turn_over, "one attribute": items.flip}


def _cases(items: LiveItems) -> list[tuple[str, float, Maker]]:
    return [(name, rate, make) for name, make in _makers(items).items() for rate in RATES]


Measured = TypeVar("Measured")


def _pairs(
    writes: str, rate: float, make: Maker, pairs: int, search: Callable[[float, Maker], tuple[float, Measured]]
) -> tuple[dict[str, Any], list[Measured]]:
    """Search in pairs of windows, one with writes and one without; returns the row and what was seen with writes."""
    rates: list[tuple[float, float]] = []
    measured: list[Measured] = []
    for number in range(pairs):
        # The second of two windows may meet a warmer or a busier machine: they swap places.
        order = (0.0, rate) if number % 2 else (rate, 0.0)
        found = {each: search(each, make) for each in order}
        rates.append((found[0.0][0], found[rate][0]))
        measured.append(found[rate][1])
    loss, low, high = loss_interval([with_ / without for without, with_ in rates])
    without_qps, qps = np.median(rates, axis=0).tolist()
    row = {"writes": writes, "rate": rate, "qps": qps, "qps_without": without_qps}
    return row | {"loss": loss, "loss_low": low, "loss_high": high}, measured


def _quantiles(name: str, seconds: Sequence[float]) -> dict[str, float]:
    """Milliseconds as the cells `NAME_p50` and `NAME_p99`."""
    p50, p99 = np.quantile(seconds, [0.5, 0.99]) * 1e3
    return {f"{name}_p50": float(p50), f"{name}_p99": float(p99)}


def _cost(shard: LiveShard, writes: str, make: Maker, bodies: int) -> dict[str, Any]:
    given = [make(BODY) for _ in range(bodies)]
    began = time.process_time()
    for body in given:
        shard.write(body)
    cpu_us = (time.process_time() - began) * 1e6 / (bodies * BODY)
    return {"writes": writes, "cpu_us": cpu_us, "edit_ms": shard.status().longest_edit_s * 1e3}


def _turned(shard: LiveShard, items: LiveItems, scale: Scale) -> dict[str, Any]:
    while items.replaced < TURNOVER * scale.items:
        shard.write(items.turn_over(BODY))
    return _state(f"{items.replaced / scale.items:.0%} turned over", shard, items)


def _state(name: str, shard: LiveShard, items: LiveItems) -> dict[str, Any]:
    status, found = shard.status(), shard.found(K)
    return {
        "state": name,
        "recall_10": _recall(items, found[:, :10]),
        "recall_100": _recall(items, found),
        "items": status.items,
        "slots": status.slots,
        "strays": status.strays,
        "mib": resident_bytes() / 2**20,
    }


def _recall(items: LiveItems, found: Floats) -> float:
    truth = brute_force(items.vectors, items.queries, found.shape[1], items.held())
    return float((found >= truth.scores[:, -1:] - TIE).mean())


def _compaction(shard: LiveShard, compactions: int) -> list[dict[str, Any]]:
    """Search alone and while the arrays are made anew, several times."""
    alone, during = [], []
    for _ in range(compactions):
        alone.append(shard.search(ALONE_S))
        during.append(shard.search_during(shard.compact))
    rows = []
    for name, windows in (("searching alone", alone), ("the arrays are made anew", during)):
        times = np.concatenate([window.batches_s for window in windows])
        cells = _quantiles("batch", times.tolist()) | {"worst": float(times.max()) * 1e3}
        seconds = float(np.median([window.seconds for window in windows]))
        rows.append({"name": name, "batches": len(times), "seconds": seconds} | cells)
    return rows
