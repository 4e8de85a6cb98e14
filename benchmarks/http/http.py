"""`/v1/search` over HTTP against a Serve application of the same shape that does nothing: `silverray bench http`.

Both run on one local Ray cluster with two shards each, behind the same HAProxy, with the same deployment options, and
are asked in turn by the same closed-loop clients. The ratio of their rates says how much of what Serve can do is left
for search; the CPU time per request and process says where it goes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgpack
import numpy as np
import orjson
from matplotlib.axes import Axes
from numpy.typing import NDArray

from silverray.benchmarks.common.clients import Traffic, post, run_clients
from silverray.benchmarks.common.datasets import DataSet, generated
from silverray.benchmarks.common.processes import cpu_seconds
from silverray.benchmarks.common.report import Report
from silverray.benchmarks.common.truth import brute_force, recall
from silverray.benchmarks.http.idle import ROUTE, IdleArgs, describe_idle, is_idle
from silverray.cluster.config import HttpConfig, ServeConfig
from silverray.cluster.serving.service import Service, start
from silverray.shard.publish.kmeans import default_clusters

TITLE = "Search over HTTP, against a Serve application that does nothing"
ITEMS, DIMENSION, QUERIES, K, SHARDS = 194_000, 128, 4_096, 10, 2
"""Items, dimensions, k and shards of the figure to reach. So many queries that no body comes again within a second."""
QUICK_ITEMS = 10_000
"""Published in seconds: a quick run shows that all works, and no figures."""
CLIENTS = (1, 16, 64, 256)
"""Latency alone, a batch that forms, the figure to reach, and twice what two batches hold."""
QUICK_CLIENTS = (1, 16)
"""A lone one, and enough that batches form."""
ROUNDS, SECONDS = 3, 4.0
"""Rounds take turns between the applications; in four seconds the slowest cell answers a thousand requests, ten of
them beyond the p99."""
QUICK_ROUNDS, QUICK_SECONDS = 1, 0.5
"""To see that every cell can be measured."""
SAMPLE = 256
"""Recall@10 to the third digit."""
DEADLINE_MS = 2_000.0
"""Beyond the latency of 256 clients, so that throughput is measured and nothing is cut short."""
SETTLE_S = 3.0
"""HAProxy is reloaded once more some moments after an application's first answer; no window should hold that."""
START_S = 120.0
"""The idle application has nothing to load; a busy machine takes half a minute for its processes."""
COLUMNS = {
    "body": "{form}",
    "clients": "{clients}",
    "application": "{application}",
    "requests/s": "{rate_p50:,.0f}",
    "p20": "{rate_p20:,.0f}",
    "p80": "{rate_p80:,.0f}",
    "p50 ms": "{p50_ms:.2f}",
    "p99 ms": "{p99_ms:.1f}",
    "wrong": "{wrong}",
    "of idle's rate": "{rate_ratio:.0%}",
    "p50 / idle's": "{p50_ratio:.2f}",
}
CPU_COLUMNS = {
    "body": "{form}",
    "clients": "{clients}",
    "application": "{application}",
    "router": "{cpu_router:.0f}",
    "shards": "{cpu_shards:.0f}",
    "HAProxy": "{cpu_haproxy:.0f}",
    "clients' own": "{cpu_clients:.0f}",
    "rest of Ray": "{cpu_ray:.0f}",
}


class Form(NamedTuple):
    """A form of body: its media type, the bodies, and what its replies have once per item."""

    media_type: str
    bodies: list[bytes]
    mark: bytes


class Window(NamedTuple):
    """What one round of one application came to."""

    traffic: Traffic
    cpu_us: dict[str, float]

    @property
    def p50_ms(self) -> float:
        return 1e3 * float(np.median(self.traffic.latencies_s))


def run(work: Path, *, quick: bool = False) -> Report:
    """Run the benchmark.

    Args:
        work: folder that keeps the catalog between runs.
        quick: little data and short rounds, to see that it works.
    """
    items = QUICK_ITEMS if quick else ITEMS
    data = generated(work, items, DIMENSION, default_clusters(items), QUERIES)
    report = Report("http", TITLE, "silverray bench http", quick=quick)
    forms = _forms(data.queries)
    with _served(data, forms) as service:
        report.facts({"items": items, "dimension": DIMENSION, "k": K, "shards": SHARDS})
        report.facts({"recall@10": _recall(service, data, forms["JSON"])})
        rows = [
            row
            for name, form in forms.items()
            for clients in (QUICK_CLIENTS if quick else CLIENTS)
            for row in _measure(service, name, form, clients, quick)
        ]
    report.table("Requests per second and latency", COLUMNS, rows)
    report.table("CPU microseconds per request", CPU_COLUMNS, rows)
    report.figure("JSON bodies", lambda axes: _draw(axes, [row for row in rows if row["form"] == "JSON"]))
    return report


def _forms(queries: NDArray[np.float32]) -> dict[str, Form]:
    texts = [orjson.dumps({"vector": query.tolist(), "k": K}) for query in queries]
    packs = [msgpack.packb({"vector": query.astype("<f4").tobytes(), "k": K}) for query in queries]
    return {
        "JSON": Form("application/json", texts, b'"score"'),
        "MessagePack": Form("application/msgpack", packs, b"score"),
    }


@contextmanager
def _served(data: DataSet, forms: Mapping[str, Form]) -> Iterator[Service]:
    """The data served, and the idle application beside it."""
    config = ServeConfig(
        snapshots=data.snapshot.parent,
        version=data.snapshot.name,
        shards=SHARDS,
        deadline_ms=DEADLINE_MS,
        http=HttpConfig(port=0),
    )
    with start(config) as service:
        contents = {form.media_type: _ask(f"{service.url}/v1/search", form, 0) for form in forms.values()}
        like = service.instance.applications()[f"{config.name}-router"].deployed_app_config
        assert like is not None, "the router was declared"
        args = IdleArgs(shards=SHARDS, dimension=DIMENSION, slots=config.batching.slots, contents=contents)
        service.instance.declare(describe_idle(args, like), is_idle)
        _wait_for_idle(service, forms["JSON"])
        yield service


def _wait_for_idle(service: Service, form: Form) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            _ask(f"{service.url}{ROUTE}", form, 0)
            break
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
    time.sleep(SETTLE_S)  # HAProxy is reloaded once more


def _ask(url: str, form: Form, number: int) -> bytes:
    headers = {"content-type": form.media_type}
    return httpx.post(url, content=form.bodies[number], headers=headers, trust_env=False).raise_for_status().content


def _recall(service: Service, data: DataSet, form: Form) -> float:
    """Tie-safe recall@k of what HTTP answers, over a sample of the queries."""
    replies = [orjson.loads(_ask(f"{service.url}/v1/search", form, number)) for number in range(SAMPLE)]
    found = np.array([[item["id"] for item in reply["items"]] for reply in replies])
    queries = data.queries[:SAMPLE]
    return recall(data.vectors, queries, found, brute_force(data.vectors, queries, K))


def _measure(service: Service, name: str, form: Form, clients: int, quick: bool) -> Iterator[dict[str, Any]]:
    """A row for each application, measured in turn."""
    urls = {"silverray": f"{service.url}/v1/search", "idle": f"{service.url}{ROUTE}"}
    requests = {who: [post(url, body, form.media_type) for body in form.bodies] for who, url in urls.items()}
    rounds, seconds = (QUICK_ROUNDS, QUICK_SECONDS) if quick else (ROUNDS, SECONDS)
    windows: dict[str, list[Window]] = {who: [] for who in urls}
    for _ in range(rounds):
        for who, url in urls.items():
            before = cpu_seconds()
            traffic = run_clients(url, requests[who], clients, seconds, mark=form.mark, marks=K)
            windows[who].append(Window(traffic, _cpu_us(who, before, cpu_seconds(), traffic)))
    pairs = list(zip(windows["silverray"], windows["idle"], strict=True))
    ratios = {
        "rate_ratio": float(np.median([ours.traffic.rate / idle.traffic.rate for ours, idle in pairs])),
        "p50_ratio": float(np.median([ours.p50_ms / idle.p50_ms for ours, idle in pairs])),
    }
    for who, its in windows.items():
        row = {"form": name, "clients": clients, "application": who, **_figures(its)}
        yield row | ratios if who == "silverray" else row


def _cpu_us(who: str, before: Mapping[str, float], after: Mapping[str, float], traffic: Traffic) -> dict[str, float]:
    """CPU microseconds per request by part; what the other application used meanwhile counts to the rest of Ray."""
    spent = {name: seconds - before.get(name, 0.0) for name, seconds in after.items()}
    parts = {
        "router": spent.pop(f"{who}-router", 0.0),
        "shards": sum(spent.pop(name) for name in list(spent) if name.startswith(f"{who}-")),
        "haproxy": spent.pop("haproxy", 0.0),
    }
    parts["ray"] = sum(spent.values())
    return {part: 1e6 * seconds / traffic.total for part, seconds in parts.items()} | {
        "clients": 1e6 * traffic.client_cpu_s / len(traffic.latencies_s)
    }


def _figures(windows: list[Window]) -> dict[str, Any]:
    rates = np.quantile([window.traffic.rate for window in windows], [0.2, 0.5, 0.8])
    latencies = [window.traffic.latencies_s for window in windows]
    cpu = {f"cpu_{part}": float(np.median([w.cpu_us[part] for w in windows])) for part in windows[0].cpu_us}
    return {
        **dict(zip(("rate_p20", "rate_p50", "rate_p80"), rates.tolist(), strict=True)),
        "p50_ms": float(np.median([window.p50_ms for window in windows])),
        "p99_ms": 1e3 * float(np.median([np.quantile(its, 0.99) for its in latencies])),
        "wrong": sum(window.traffic.wrong for window in windows),
        **cpu,
    }


def _draw(axes: Axes, rows: list[dict[str, Any]]) -> None:
    for who in ("idle", "silverray"):
        mine = [row for row in rows if row["application"] == who]
        axes.plot([row["clients"] for row in mine], [row["rate_p50"] for row in mine], marker="o", label=who)
    axes.set_xscale("log", base=2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("clients")
    axes.set_ylabel("requests/s")
    axes.legend()
