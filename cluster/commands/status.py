"""`silverray status`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rich.table import Column, Table

from silverray.cluster.commands.terminal import print_json, results
from silverray.cluster.serving.records import ServiceRecord, read_records
from silverray.router.http.client import SearchClient
from silverray.shard.api import SearchError
from silverray.shard.index.memory import format_bytes

_FACTS = (
    *("service", "url", "version", "shards", "kernels", "memory of a shard"),
    *("requests", "degraded", "p99", "state"),
)
_SHOWN = ("version", "backends", "replicas", "requests", "degraded", "latency_ms")
"""What every router's status has, and a row is made of."""
_WIDE = 140  # columns; a usual row has 120 to 140


def run_status(url: str | None, *, as_json: bool) -> None:
    """Print the state of one service, or of all that were started from here.

    Raises:
        SearchError: the service at `url` does not answer.
    """
    documents = [{"url": url, **_status(url)}] if url is not None else _ask_all(read_records())
    if as_json:
        print_json(documents)
        return
    if not documents:
        results.print("no service was started from here")
        return
    for table in [_wide(documents)] if results.width >= _WIDE else map(_narrow, documents):
        results.print(table)
    for document in documents:
        if encoder := document.get("encoder"):
            results.print(_tables(document, encoder["tables"]))


def _wide(documents: list[dict[str, Any]]) -> Table:
    """A row a service."""
    table = Table(*(Column(name, no_wrap=name == "url") for name in _FACTS))
    for document in documents:
        table.add_row(*_row(document))
    return table


def _narrow(document: dict[str, Any]) -> Table:
    """A line a fact, for a terminal where a row would be cut into letters."""
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value in zip(_FACTS, _row(document), strict=True):
        if value:
            table.add_row(name, value)
    return table


def _ask_all(records: list[ServiceRecord]) -> list[dict[str, Any]]:
    """What services say of themselves, asked side by side: one may hang."""
    with ThreadPoolExecutor(len(records) or 1) as threads:
        return list(threads.map(_ask, records))


def _ask(record: ServiceRecord) -> dict[str, Any]:
    known = {"service": record.name, "url": record.url, "pid": record.pid, "address": record.address}
    try:
        return {**known, **_status(record.url)}
    except SearchError as error:
        return {**known, "error": str(error)}


def _row(document: dict[str, Any]) -> list[str]:
    place = [str(document.get("service", "")), document["url"]]
    if "error" in document:
        return [*place, "", "", "", "", "", "", "", document["error"]]
    applications = document.get("applications") or {}
    bad = [f"{name} {app['status']}" for name, app in applications.items() if app["status"] != "RUNNING"]
    silent = [backend["name"] for backend in document["backends"] if backend["hanging"]]
    log = document.get("log") or {}
    behind = [f"{reader['shard']} lags by {reader['lag']:,}" for reader in log.get("readers", ()) if reader["lag"]]
    if "error" in log:
        bad.append(f"writes refused: {log['error']}")
    bad += [what for name, replica in document["replicas"].items() if replica for what in _updates(name, replica)]
    replicas = [replica for replica in document["replicas"].values() if replica]
    return [
        *place,
        document["version"],
        str(len(document["backends"])),
        ", ".join(sorted({replica["kernels"] for replica in replicas})),
        _memory([replica["memory"] for replica in replicas]),
        f"{document['requests']:,}",
        f"{document['degraded']:,}",
        f"{document['latency_ms']['p99']:.1f} ms",
        ", ".join([*bad, *(f"{name} hangs" for name in silent), *behind]) or "running",
    ]


def _updates(name: str, replica: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a replica's updates."""
    if not (updates := replica.get("updates")):
        return
    if updates["error"]:
        yield f"{name} stands at {updates['applied']:,}: {updates['error']}"
    if updates["refusal"]:
        count = updates["outcome"]["refused"] + updates["outcome"]["key_collision"]
        yield f"{name} left out {count:,} writes, such as {updates['refusal']}"


def _tables(document: dict[str, Any], tables: dict[str, Any]) -> Table:
    """Where the embedding tables of a service are: a row a part, in the order of the tables."""
    state = "ready" if tables["ready"] else "being loaded again"
    title = f"embedding tables of {document['service']}: {state}, failures: {tables['failures']}"
    parts = Table("table", "rank", "sharding", "kernel", "rows", "columns", "bytes", title=title)
    for part in tables["shards"]:
        rank = "in process" if part["rank"] is None else str(part["rank"])
        ranges = [f"{first:,} to {end - 1:,}" for first, end in (part["rows"], part["columns"])]
        parts.add_row(part["table"], rank, part["sharding"], part["kernel"], *ranges, format_bytes(part["bytes"]))
    return parts


def _memory(replicas: list[dict[str, dict[str, int]]]) -> str:
    """The most that one of the replicas takes, in each place."""
    most = {place: max((sum(one[place].values()) for one in replicas), default=0) for place in ("device", "host")}
    return " + ".join(f"{format_bytes(size)} {place}" for place, size in most.items() if size)


def _status(url: str) -> dict[str, Any]:
    with SearchClient(url) as client:
        return client.get("/v1/status", *_SHOWN)
