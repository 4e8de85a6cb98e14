"""Three times what a service can do: `silverray bench overload`.

One router and two shards with the load's maker on the same machine. A closed loop finds the sustainable rate; then
requests leave at fixed mean rates whether or not earlier ones have been answered: as many as that, three times as many
for a minute, and at once half as many. What counts is the goodput: full answers per second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
from matplotlib.axes import Axes
from numpy.typing import NDArray

from silverray.benchmarks.common.clients import post, run_clients
from silverray.benchmarks.common.datasets import generated
from silverray.benchmarks.common.open_loop import run_open_loop
from silverray.benchmarks.common.processes import own_actors
from silverray.benchmarks.common.report import Report
from silverray.cluster.config import HttpConfig, ServeConfig
from silverray.cluster.loadtest.loadtest import LoadPlan, Outcome
from silverray.cluster.serving.service import Service, start
from silverray.shard.publish.kmeans import default_clusters

TITLE = "Goodput under overload: one router, two shards, bodies of 8 queries with k = 100, deadline 1 s"
ITEMS, DIMENSION, QUERIES = 50_000, 64, 4_096
"""So few that the router, and not a shard, is what two cores run out of (decision 14.7)."""
QUICK_ITEMS = 10_000
"""Published in seconds: a quick run shows that all works, and no figures."""
SHARDS, A_BODY, K, DEADLINE_MS = 2, 8, 100, 1_000.0
"""Two cores sustain 115 to 176 such bodies a second (decision 14.7), which one open loop can send three times over."""
CLIENTS = 16
"""Their bodies of 8 queries fill both batches of 64 that may be in flight."""
CLOSED_S, QUICK_CLOSED_S = 8.0, 2.0
"""The rate that all phases go by: a thousand bodies, of which a burst is a small part."""
PATIENCE_S = 5.0
"""After which a client of the open loop goes away, as people's clients do."""
COLUMNS = {
    "load": "{load}",
    "bodies/s sent": "{sent_rate:,.0f}",
    "full answers/s": "{goodput:,.0f}",
    "of sustainable": "{share:.0%}",
    "worst second": "{worst:.0f}",
    "first second": "{first:.0f}",
    "p50 ms": "{p50_ms:.0f}",
    "p99 ms": "{p99_ms:.0f}",
    "worst ms": "{worst_ms:.0f}",
    "degraded": "{degraded}",
    "refused and failed": "{errors}",
    "same processes": "{same}",
}


class Phase(NamedTuple):
    """A part of the open loop: how long, and its rate as a multiple of the sustainable one."""

    load: str
    times: float
    seconds: float
    quick_seconds: float


PHASES = (
    Phase("open, 1 x", 1.0, 10.0, 2.0),
    Phase("open, 3 x", 3.0, 60.0, 5.0),
    Phase("open, 0.5 x, right after", 0.5, 10.0, 2.0),
)


def run(work: Path, *, quick: bool = False) -> Report:
    """Run the benchmark.

    Args:
        work: folder that keeps the catalog between runs.
        quick: little data and short phases, to see that it works.
    """
    items = QUICK_ITEMS if quick else ITEMS
    data = generated(work, items, DIMENSION, default_clusters(items), QUERIES)
    bodies = _bodies(data.queries)
    config = ServeConfig(
        snapshots=data.snapshot.parent,
        version=data.snapshot.name,
        shards=SHARDS,
        deadline_ms=DEADLINE_MS,
        http=HttpConfig(port=0),
    )
    report = Report("overload", TITLE, "silverray bench overload", quick=quick)
    with start(config) as service:
        sustainable = _closed_loop(service, bodies, QUICK_CLOSED_S if quick else CLOSED_S)
        report.facts({"items": items, "dimension": DIMENSION, "sustainable bodies/s": round(sustainable, 1)})
        measured = [_open_loop(service, bodies, phase, sustainable, quick) for phase in PHASES]
    rows = [row for row, _ in measured]
    report.table("Open loop", COLUMNS, rows)
    report.figure("Full answers per second", lambda axes: _draw(axes, [series for _, series in measured], sustainable))
    return report


def _bodies(queries: NDArray[np.float32]) -> list[bytes]:
    groups = queries[: len(queries) // A_BODY * A_BODY].reshape(-1, A_BODY, queries.shape[1])
    return [orjson.dumps({"queries": [{"vector": q, "k": K} for q in group.tolist()]}) for group in groups]


def _closed_loop(service: Service, bodies: Sequence[bytes], seconds: float) -> float:
    """Bodies per second that clients are answered who wait for one answer before they ask again."""
    url = f"{service.url}/v1/search"
    requests = [post(url, body, "application/json") for body in bodies]
    run_clients(url, requests, CLIENTS, seconds / 4, mark=b'"score"', marks=A_BODY * K)  # warms caches and kernels
    return run_clients(url, requests, CLIENTS, seconds, mark=b'"score"', marks=A_BODY * K).rate


def _open_loop(
    service: Service, bodies: Sequence[bytes], phase: Phase, sustainable: float, quick: bool
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Make the load of a phase; a row of the table, and the full answers of each second."""
    seconds = phase.quick_seconds if quick else phase.seconds
    before = _replicas()
    url = f"{service.url}/v1/search"
    requests = [post(url, body, "application/json") for body in bodies]
    departures = LoadPlan(
        url=service.url, bodies=bodies, rate=phase.times * sustainable, duration_s=seconds
    ).departures()
    outcomes = run_open_loop(url, requests, departures, mark=b'"score"', marks=A_BODY * K, patience_s=PATIENCE_S)
    full = [outcome for outcome in outcomes if outcome.error is None and not outcome.degraded]
    series = _a_second(full, seconds)
    latencies = 1e3 * np.array([outcome.latency_s for outcome in full] or [np.nan])
    goodput = float(series.mean())
    row = {
        "load": phase.load,
        "sent_rate": len(outcomes) / seconds,
        "goodput": goodput,
        "share": goodput / sustainable,
        "worst": int(series.min()),
        "first": int(series[0]),
        **dict(zip(("p50_ms", "p99_ms", "worst_ms"), np.quantile(latencies, [0.5, 0.99, 1.0]).tolist(), strict=True)),
        "degraded": sum(outcome.degraded for outcome in outcomes),
        "errors": _counted(outcomes),
        "same": before == _replicas(),
        "series": series.tolist(),
    }
    return row, series


def _a_second(full: Sequence[Outcome], seconds: float) -> NDArray[np.int64]:
    """How many answers came in each second of a phase; those after its end count for none."""
    arrived = [outcome.sent_s + outcome.latency_s for outcome in full]
    counts, _ = np.histogram(arrived, bins=int(seconds), range=(0.0, int(seconds)))
    return counts.astype(np.int64)


def _counted(outcomes: Sequence[Outcome]) -> str:
    errors = Counter(outcome.error for outcome in outcomes if outcome.error is not None)
    return ", ".join(f"{count} {code}" for code, count in errors.most_common()) or "none"


def _replicas() -> list[int]:
    return sorted(own_actors("ServeReplica"))


def _draw(axes: Axes, parts: Sequence[NDArray[np.int64]], sustainable: float) -> None:
    series = np.concatenate(parts)
    axes.plot(np.arange(len(series)), series)
    axes.axhline(sustainable, linestyle="--", label="sustainable")
    for end in np.cumsum([len(part) for part in parts])[:-1]:
        axes.axvline(end, linewidth=0.5, color="grey")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("seconds")
    axes.set_ylabel("full answers/s")
    axes.legend()
