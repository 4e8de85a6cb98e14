"""`silverray status`."""

from __future__ import annotations

from typing import Any

from rich.table import Column, Table

from silverray.cluster.records import ServiceRecord, read_records
from silverray.cluster.terminal import print_json, results
from silverray.router.client import SearchClient
from silverray.shard.api import SearchError


def run_status(url: str | None, *, as_json: bool) -> None:
    """Print the state of one service, or of all that were started from here.

    Raises:
        SearchError: the service at `url` does not answer.
    """
    if url is not None:
        documents = [{"url": url, **SearchClient(url).get("/v1/status")}]
    else:
        documents = [_ask(record) for record in read_records()]
    if as_json:
        print_json(documents)
        return
    if not documents:
        results.print("no service was started from here")
        return
    table = Table(
        "service", Column("url", no_wrap=True), "version", "shards", "kernels", "requests", "degraded", "p99", "state"
    )
    for document in documents:
        table.add_row(*_row(document))
    results.print(table)


def _ask(record: ServiceRecord) -> dict[str, Any]:
    known = {"service": record.name, "url": record.url, "pid": record.pid, "address": record.address}
    try:
        return {**known, **SearchClient(record.url).get("/v1/status")}
    except SearchError as error:
        return {**known, "error": str(error)}


def _row(document: dict[str, Any]) -> list[str]:
    place = [str(document.get("service", "")), document["url"]]
    if "error" in document:
        return [*place, "", "", "", "", "", "", document["error"]]
    applications = document.get("applications") or {}
    bad = [f"{name} {app['status']}" for name, app in applications.items() if app["status"] != "RUNNING"]
    silent = [backend["name"] for backend in document["backends"] if backend["hanging"]]
    return [
        *place,
        document["version"],
        str(len(document["backends"])),
        ", ".join(sorted({replica["kernels"] for replica in document["replicas"].values() if replica})),
        f"{document['requests']:,}",
        f"{document['degraded']:,}",
        f"{document['latency_ms']['p99']:.1f} ms",
        ", ".join(bad + [f"{name} hangs" for name in silent]) or "running",
    ]
