"""`silverray bench live`, on little data."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from silverray.benchmarks.live import loss_interval
from silverray.cluster.cli import app


def test_live_measures_loss_recall_and_compaction(tmp_path: Path) -> None:
    arguments = ["bench", "live", "--quick", "--work", str(tmp_path / "work"), "--out", str(tmp_path)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "live.json").read_text())
    tables = {table["title"]: table["rows"] for table in document["tables"]}
    rates = [(row["writes"], row["rate"]) for row in tables["queries and writes at the same time"]]
    assert rates == [*(("a new item for an old one", rate) for rate in (100, 600, 2_000)), ("one attribute", 600)]
    for row in tables["queries and writes at the same time"]:
        assert row["qps"] > 0 and row["qps_without"] > 0
        assert row["loss_low"] <= row["loss"] <= row["loss_high"]
        assert 0 < row["seen_p50"] <= row["seen_p99"]
    before, after = tables["recall"]
    assert (before["items"], after["items"]) == (6_000, 6_000)
    assert after["state"].endswith("% turned over") and int(after["state"].split("%")[0]) >= 50
    assert min(before["recall_100"], after["recall_100"]) > 0.98
    assert [row["batches"] > 0 for row in tables["compaction"]] == [True, True]
    assert all(row["cpu_us"] > 0 for row in tables["writes alone"])


def test_the_interval_of_a_loss_holds_its_median() -> None:
    loss, low, high = loss_interval([0.99, 0.98, 1.01, 0.97, 1.0])
    assert loss == pytest.approx(0.01)
    assert pytest.approx(-0.01) == low
    assert pytest.approx(0.03) == high
