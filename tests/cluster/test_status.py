"""What `silverray status` prints of an encoder."""

from typing import Any

import pytest
from rich.console import Console

from silverray.cluster.commands import status
from silverray.router.client import SearchClient

PARTS = [
    {
        "table": "users",
        "rank": rank,
        "sharding": "row_wise",
        "kernel": "fused",
        "rows": [rank * 30_000, rank * 30_000 + 30_000],
        "columns": [0, 16],
        "bytes": 1_920_000,
    }
    for rank in range(2)
]


def document(tables: dict[str, Any] | None) -> dict[str, Any]:
    encoder = {"encoder": {"version": "v1", "tables": tables} if tables else None}
    counts = {"requests": 7, "degraded": 0, "latency_ms": {"p99": 1.5}}
    return {
        "service": "films",
        "version": "v1",
        "backends": [],
        "replicas": {},
        "applications": {},
        **counts,
        **encoder,
    }


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        (
            {"ready": False, "failures": 1, "device": "cpu", "rank_bytes": [1_920_000] * 2, "shards": PARTS},
            [
                "embedding tables of films: being loaded again, failures: 1",
                "users 0 row_wise fused 0 to 29,999 0 to 15 1.8 MiB",
                "users 1 row_wise fused 30,000 to 59,999 0 to 15 1.8 MiB",
            ],
        ),
        (
            {
                "ready": True,
                "failures": 0,
                "shards": [PARTS[0] | {"rank": None, "sharding": "whole", "kernel": "int8"}],
            },
            [
                "embedding tables of films: ready, failures: 0",
                "users in process whole int8 0 to 29,999 0 to 15 1.8 MiB",
            ],
        ),
        (None, []),
    ],
)
def test_status_shows_where_tables_are(
    tables: dict[str, Any] | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(width=200, record=True)
    monkeypatch.setattr(status, "results", console)
    monkeypatch.setattr(SearchClient, "get", lambda *_: document(tables))
    status.run_status("http://films", as_json=False)
    lines = [" ".join(line.replace("│", " ").split()) for line in console.export_text().splitlines()]
    assert any(line.startswith("films http://films v1") for line in lines)
    for line in expected:
        assert line in lines, lines
    assert any("embedding" in line for line in lines) == bool(expected)
