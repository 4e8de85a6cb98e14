import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from silverray.cluster.cli import app
from silverray.cluster.commands import terminal
from silverray.cluster.commands.search import make_body
from silverray.cluster.loadtest.loadtest import LoadPlan, Outcome
from silverray.cluster.loadtest.report import LoadReport
from silverray.cluster.serving.records import ServiceRecord, hold_record, is_held, read_records, records_folder


def run(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


COMMANDS = [
    "publish",
    "convert",
    "serve",
    "search",
    "loadtest",
    "status",
    "stop",
    "train",
    "demo",
    "verify",
    "export",
    "inspect",
    "bench",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert f"silverray {command}" in out or f"{command} [OPTIONS]" in out


@pytest.mark.usefixtures("home")
def test_mistakes_are_one_clear_line(tmp_path: Path, store: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("snapshots: none\nshardz: 2\n")
    assert run("serve", config) == (2, "", f"error: {config}: shardz: unknown key\n")
    config.write_text("snapshots: none\n")
    assert run("serve", config) == (1, "", f"error: {tmp_path}/none: holds no published snapshot\n")
    config.write_text(f"{{snapshots: {store}, version: v7}}")
    code, _, err = run("serve", config)
    assert (code, err.count("\n")) == (1, 1) and "v7" in err
    config.write_text(f"snapshots: {store}\n")
    expected = "error: shards: expected 1 to 16 (the snapshot's partitions), got 17\n"
    assert run("serve", config, "--shards", 17) == (2, "", expected)
    assert run("search", "-k", 3) == (2, "", "error: expected either --vector FILE.npy or --user JSON\n")
    assert run("search", "--user", "[1")[0] == 2
    code, _, err = run("search", "--url", "http://127.0.0.1:9", "--user", "{}")
    assert code == 1 and "http://127.0.0.1:9: the server cannot be reached" in err
    assert run("stop") == (2, "", "error: no service was started from here (running: none)\n")
    assert run("stop", "a") == (2, "", "error: no service 'a' was started from here (running: none)\n")


def test_publish_verify_inspect(tmp_path: Path, films: Any) -> None:
    table, vectors, schema = films
    pq.write_table(table, tmp_path / "items.parquet")
    np.save(tmp_path / "vectors.npy", vectors)
    (tmp_path / "schema.yaml").write_text(schema)
    files = [tmp_path / "items.parquet", "--schema", tmp_path / "schema.yaml", "--out", tmp_path / "store"]
    options = ["--vectors", tmp_path / "vectors.npy", "--partitions", 4, "--version", "a", "--json"]
    code, out, err = run("publish", *files, *options)
    assert code == 0, err
    published = json.loads(out)
    assert published["items"] == len(vectors)
    code, out, _ = run("inspect", tmp_path / "store" / "a", "--json")
    document = json.loads(out)
    assert document["memory"] == published["memory"]
    assert (code, document["items"], document["partitions"]) == (0, len(vectors), 4)
    assert document["fields"]["genres"]["type"] == "tags"
    sizes = document["memory"]["bytes_per_item"]
    assert (sizes["cpu"]["device"], sizes["cpu"]["host"]["codes"]) == ({}, 64.0)
    assert (sizes["cuda"]["device"]["codes"], sizes["cuda"]["device"]["vectors"]) == (16.0, 64.0)
    fits = document["memory"]["items_that_fit"]
    assert [card["card_gib"] for card in fits] == [24, 40, 80, 141]
    assert all(0 < card["device"] < card["host"] for card in fits)
    code, out, _ = run("inspect", tmp_path / "store" / "a")
    assert code == 0 and f"{fits[2]['device']:,}" in out and "2.0 GiB kept free" in out
    code, out, _ = run("verify", tmp_path / "store" / "a")
    assert code == 0 and "files are whole" in out
    code, _, err = run("publish", *files, *options)
    assert code == 1 and "exists already" in err

    victim = next((tmp_path / "store" / "a" / "partitions").rglob("*.safetensors"))
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    code, _, err = run("verify", tmp_path / "store" / "a")
    assert code == 1 and str(victim) in err


def test_status_shows_the_memory_of_the_largest_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    def replica(vectors: int, payload: int) -> dict[str, Any]:
        memory = {"device": {"codes": 1 << 30, "vectors": vectors << 30}, "host": {"payload": payload << 20}}
        return {"items": 1, "kernels": "cuda", "threads": 1, "memory": memory}

    shown = {
        **{"service": "a", "version": "v1", "backends": [], "requests": 1, "degraded": 0, "latency_ms": {"p99": 1.0}},
        "replicas": {"one": replica(2, 300), "two": replica(4, 200), "three": None},
    }
    monkeypatch.setattr("silverray.router.http.client.SearchClient.get", lambda *_: shown)
    monkeypatch.setattr("silverray.cluster.commands.status.results", Console(width=200))
    assert "│ 5.0 GiB device + 300.0 MiB host │" in run("status", "--url", "http://u")[1]
    (document,) = json.loads(run("status", "--url", "http://u", "--json")[1])
    assert document["replicas"]["two"]["memory"]["device"] == {"codes": 1 << 30, "vectors": 4 << 30}


def test_search_prints_items_and_says_when_degraded(echo: str) -> None:
    code, out, err = run("search", "--url", echo, "--user", '{"age": 3}', "-k", 7)
    assert code == 0 and "0.5000" in out and " 7 " in out
    assert err == "degraded: 1 of 2 shards answered\n"
    code, out, _ = run("search", "--url", echo, "--user", "{}", "--json")
    assert json.loads(out)["items"] == [{"id": 10, "score": 0.5, "fields": {}}]


def test_loadtest_reports(tmp_path: Path, echo: str) -> None:
    (tmp_path / "q.jsonl").write_text('{"k": 1}\n{"k": 2}\n')
    (tmp_path / "t.jsonl").write_text('{"ids": [1], "scores": [0.5]}\n{"ids": [1, 2], "scores": [0.5, 0.5]}\n')
    given = ["--url", echo, "--queries", tmp_path / "q.jsonl", "--truth", tmp_path / "t.jsonl"]
    code, out, err = run("loadtest", *given, "--rate", 50, "--duration", "1s", "--report", tmp_path / "r", "--json")
    assert code == 0, err
    document = json.loads(out)
    assert document["errors"] == {} and document["degraded_share"] == 1.0
    assert document["recall"] == pytest.approx(0.75, abs=0.01)
    assert document["lateness"] == {"count": 0, "p99_9_ms": 0.0, "max_ms": 0.0}
    assert json.loads((tmp_path / "r" / "report.json").read_text()) == document
    code, out, _ = run("loadtest", *given, "--rate", 50, "--duration", "300ms")
    assert code == 0 and "rate asked / achieved" in out and "p99.9" in out
    assert run("loadtest", *given, "--duration", "soon")[0] == 2


def test_loadtest_fails_as_it_was_told_to(tmp_path: Path, echo: str) -> None:
    (tmp_path / "q.jsonl").write_text('{"k": 1}\n')
    given = ["loadtest", "--url", echo, "--queries", tmp_path / "q.jsonl", "--rate", 50, "--duration", "500ms"]
    truth = ["--truth", tmp_path / "t.jsonl", "--min-recall", 0.5]
    (tmp_path / "t.jsonl").write_text('{"ids": [1], "scores": [0.5]}\n')
    assert run(*given, "--max-errors", 0, *truth)[0] == 0
    (tmp_path / "t.jsonl").write_text('{"ids": [1], "scores": [0.9]}\n')
    code, out, err = run(*given, *truth)
    assert (code, err) == (1, "error: load test: recall 0.0000, expected at least 0.5\n")
    assert "rate asked / achieved" in out
    expected = "error: --min-recall: expected --truth, which recall is measured by\n"
    assert run(*given, "--min-recall", 0.5) == (2, "", expected)


@pytest.mark.parametrize(
    ("failed", "max_errors", "expected"),
    [
        (0, 0.0, None),
        (5, 0.05, None),
        (6, 0.05, "6 of 100 requests failed (deadline_exceeded: 6); expected at most 5.0%"),
        (99, 1.0, None),
        (100, 1.0, "100 of 100 requests failed (deadline_exceeded: 100); expected replies"),
    ],
)
def test_a_load_fails_by_its_share_of_errors(failed: int, max_errors: float, expected: str | None) -> None:
    outcomes = [Outcome(0.0, 0.1, "deadline_exceeded" if number < failed else None) for number in range(100)]
    report = LoadReport.of(LoadPlan(url="http://x", bodies=[b"{}"]), outcomes)
    assert report.shortfall(max_errors) == expected


@pytest.mark.usefixtures("home")
def test_records_of_dead_processes_are_forgotten() -> None:
    record = ServiceRecord(name="a", url="http://127.0.0.1:9", address=None, pid=1, ends_serve=True)
    with hold_record("a") as holder:
        holder.write(record)
        assert is_held("a") and read_records() == [record]
        code, out, _ = run("status", "--json")
        (document,) = json.loads(out)
        assert code == 0 and document["service"] == "a" and "cannot be reached" in document["error"]
    assert read_records() == []
    with hold_record("b", keep=True) as holder:
        holder.write(ServiceRecord(name="b", url="http://127.0.0.1:9", address=None, pid=1, ends_serve=True))
    assert (records_folder() / "b.json").exists()
    assert read_records() == [] and not (records_folder() / "b.json").exists()
    assert run("status")[1] == "no service was started from here\n"


@pytest.mark.usefixtures("home")
def test_a_refused_serve_leaves_record_and_log_of_the_one_that_runs(tmp_path: Path, store: Path) -> None:
    config, log = tmp_path / "c.yaml", records_folder() / "silverray.log"
    config.write_text(f"snapshots: {store}\n")
    record = ServiceRecord(name="silverray", url="http://127.0.0.1:9", address=None, pid=1, ends_serve=True)
    refused = "error: name: service 'silverray' is served by another process; stop it first\n"
    with hold_record("silverray") as holder:
        holder.write(record)
        log.write_text("ready\n")
        assert run("serve", config) == run("serve", config, "--detach") == (2, "", refused)
        assert read_records() == [record] and log.read_text() == "ready\n"


@pytest.mark.usefixtures("home")
def test_a_serve_that_fails_leaves_the_record_of_the_detached_service_that_runs() -> None:
    record = ServiceRecord(name="a", url="http://127.0.0.1:9", address="head:6379", pid=None, ends_serve=True)
    with hold_record("a", keep=True) as holder:
        assert holder.read_detached() is None
        holder.write(record)
    with pytest.raises(RuntimeError), hold_record("a") as holder:
        assert holder.read_detached() == record
        raise RuntimeError
    assert read_records() == [record]
    with hold_record("a") as holder:  # one that starts it anew and ends it
        holder.write(replace(record, pid=1))
    assert read_records() == [] and not (records_folder() / "a.json").exists()
    with pytest.raises(RuntimeError), hold_record("a", keep=True):
        raise RuntimeError
    assert not (records_folder() / "a.json").exists()


def test_progress_is_a_line_a_stage_where_standard_error_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(terminal, "notes", Console(stderr=True))
    with terminal.told_progress("starting") as tell:
        for second in range(25):
            now = float(second)
            tell(f"compiling kernels: {second} done")
        tell("waiting for HTTP")
        tell("waiting for HTTP")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"compiling kernels: {second} done" for second in (0, 10, 20)] + ["waiting for HTTP"]


def test_an_interrupt_says_what_became_of_the_service(capsys: pytest.CaptureFixture[str]) -> None:
    interrupt = KeyboardInterrupt()
    interrupt.add_note("what served before (v1/2) was put back and answers")
    with pytest.raises(KeyboardInterrupt), terminal.one_line_errors():
        raise interrupt
    assert capsys.readouterr().err == "interrupted; what served before (v1/2) was put back and answers\n"


def test_a_search_says_how_it_is_diversified() -> None:
    given: dict[str, Any] = {"filter_text": None, "k": 3, "fields": "", "n_probe": None, "deadline_ms": None}
    for diversify, expected in ((None, {}), (0.0, {"diversify": {"strength": 0.0}})):
        body = make_body(None, "{}", **given, diversify=diversify, variant=None, context=None, explain=False)
        assert body == {"user": {}, "k": 3, **expected}


def test_a_search_says_how_its_items_are_valued() -> None:
    given: dict[str, Any] = {"filter_text": None, "k": 3, "fields": "", "n_probe": None, "deadline_ms": None}
    asked = given | {"diversify": None, "variant": "late", "explain": False}
    body = make_body(None, "{}", **asked, context='{"hour": 21}')
    assert body == {"user": {}, "k": 3, "variant": "late", "context": {"hour": 21}}
    with pytest.raises(ValueError, match=r"--context: expected an object, got '3'"):
        make_body(None, "{}", **asked, context="3")


def test_a_search_sends_what_it_was_given_though_it_is_nothing() -> None:
    """An empty shell variable is a filter that does not parse, not a search of everything."""
    given: dict[str, Any] = {"k": 3, "fields": " ,", "n_probe": 0, "deadline_ms": 0.0, "diversify": 0.0}
    body = make_body(None, "{}", "", **given, variant="", context="{}", explain=False)
    assert body == {
        **{"user": {}, "k": 3, "filter": "", "n_probe": 0, "deadline_ms": 0.0},
        **{"diversify": {"strength": 0.0}, "variant": "", "context": {}},
    }


def test_other_keys_of_a_query_are_options_of_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []

    def note(client: Any, body: Any) -> dict[str, Any]:
        sent.append(body)
        return {"items": [], "coverage": {"degraded": False}}

    monkeypatch.setattr("silverray.router.http.client.SearchClient.search", note)
    assert run("search", "--user", "{}", "-k", 3, "--min-score", "0.25", "--mode=bloom", "--filter", "a = 1")[0] == 0
    assert sent == [{"user": {}, "k": 3, "min_score": 0.25, "mode": "bloom", "filter": "a = 1", "deadline_ms": 2_000.0}]
    assert run("search", "--user", "{}", "--min-score", "-0.5")[0] == 0 and sent[1]["min_score"] == -0.5
    assert run("search", "--user", "{}", "bloom")[::2] == (
        2,
        "error: expected an option such as --mode bloom, got bloom\n",
    )
    assert run("search", "--user", "{}", "--mode") == (2, "", "error: --mode: expected a value\n")


def test_status_of_another_server_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("silverray.router.http.client.SearchClient._ask", lambda *_: {"status": "ok"})
    said = "error: the server answered with HTTP status 200 and no answer that a router gives\n"
    assert run("status", "--url", "http://u") == (1, "", said)


@pytest.mark.parametrize("arguments", [("verify", "/"), ("inspect", "/"), ("search", "--user", "{}"), ("status",)])
def test_a_working_directory_that_was_deleted_is_one_line(arguments: tuple[str, ...], tmp_path: Path) -> None:
    script = "import os, sys; os.rmdir(os.getcwd()); from silverray.cluster.cli import app; app()"
    (tmp_path / "gone").mkdir()
    ran = subprocess.run(
        [sys.executable, "-P", "-c", script, *arguments], cwd=tmp_path / "gone", capture_output=True, text=True
    )
    said = "error: the working directory was deleted: expected one that is there; change to it with cd\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", said)
