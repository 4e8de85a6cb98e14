"""What `silverray status` prints of an encoder, and of updates that are not well."""

import json
import threading
from typing import Any

import pytest
from processes import PATIENCE_S
from rich.console import Console

from silverray.cluster.commands import status
from silverray.cluster.serving.records import ServiceRecord
from silverray.router.errors import Unavailable
from silverray.router.http.client import SearchClient

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


def printed(monkeypatch: pytest.MonkeyPatch, said: dict[str, Any], width: int = 400) -> list[str]:
    """Lines, without what draws the tables."""
    console = Console(width=width, record=True)
    monkeypatch.setattr(status, "results", console)
    monkeypatch.setattr(SearchClient, "get", lambda *_: said)
    status.run_status("http://films", as_json=False)
    return [" ".join(line.replace("│", " ").split()) for line in console.export_text().splitlines()]


def test_status_shows_what_is_wrong_with_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = {"kernels": "avx512", "memory": {"device": {}, "host": {"keys": 1024}}}
    well = {"applied": 7, "error": None, "refusal": None, "outcome": {"refused": 0, "key_collision": 0}}
    stuck = well | {"applied": 1_041, "error": "LogUnreadable: writes 1042 to 1050 cannot be read: writes: damaged"}
    refusing = well | {"refusal": "item 7: fields.year: ...", "outcome": {"refused": 1_000, "key_collision": 1}}
    replicas = {"one": well, "two": stuck, "three": refusing, "four": None}
    said = document(None) | {"replicas": {name: replica | {"updates": its} for name, its in replicas.items()}}
    (line,) = [line for line in printed(monkeypatch, said) if line.startswith("films")]
    assert line.endswith(
        "two stands at 1,041: LogUnreadable: writes 1042 to 1050 cannot be read: writes: damaged,"
        " three left out 1,001 writes, such as item 7: fields.year: ..."
    )
    said["replicas"] = {"one": None, "two": replica | {"updates": well}}
    assert any(line.endswith("running") for line in printed(monkeypatch, said))


def test_a_narrow_terminal_gets_a_line_a_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    assert printed(monkeypatch, document(None), width=80) == [
        *("service films", "url http://films", "version v1", "shards 0"),
        *("requests 7", "degraded 0", "p99 1.5 ms", "state running"),
    ]


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
    lines = printed(monkeypatch, document(tables))
    assert any(line.startswith("films http://films v1") for line in lines)
    for line in expected:
        assert line in lines, lines
    assert any("embedding" in line for line in lines) == bool(expected)


def test_services_are_asked_side_by_side(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    records = [
        ServiceRecord(name=name, url=f"http://{name}", address=None, pid=1, ends_serve=True) for name in ("a", "b", "c")
    ]
    all_asked = threading.Barrier(len(records), timeout=PATIENCE_S)

    def hang(*_: object) -> None:
        all_asked.wait()
        raise Unavailable("timed out")

    monkeypatch.setattr(status, "read_records", lambda: records)
    monkeypatch.setattr(SearchClient, "get", hang)
    status.run_status(None, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert [(one["service"], one["error"]) for one in said] == [(name, "timed out") for name in ("a", "b", "c")]
