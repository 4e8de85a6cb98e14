"""`silverray bench live`, on little data."""

import json
from pathlib import Path

import msgpack
import numpy as np
import pytest
from typer.testing import CliRunner

from silverray.benchmarks.live import live
from silverray.benchmarks.live.items import LiveItems, pack_body
from silverray.benchmarks.live.live import loss_interval
from silverray.cluster.cli import app
from silverray.router.http.item_parsing import parse_items
from silverray.router.settings import RouterSettings
from silverray.shard.live.writes import Delete, Patch, Upsert
from silverray.shard.snapshot.catalog import Catalog


def test_live_measures_loss_recall_and_compaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_over_http", lambda *_: None)  # needs a Ray cluster to itself
    arguments = ["bench", "live", "--quick", "--work", str(tmp_path / "work"), "--out", str(tmp_path)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "live.json").read_text())
    tables = {table["title"]: table["rows"] for table in document["tables"]}
    loss = tables["in the shard, queries and writes at the same time"]
    names = ("a new item for an old one", "one attribute")
    assert [(row["writes"], row["rate"]) for row in loss] == [(name, r) for name in names for r in (100, 600, 2_000)]
    for row in loss:
        assert row["qps"] > 0 and row["qps_without"] > 0
        assert row["loss_low"] <= row["loss"] <= row["loss_high"]
        assert 0 < row["seen_p50"] <= row["seen_p99"]
    before, after = tables["recall"]
    assert (before["items"], after["items"]) == (6_000, 6_000)
    assert after["state"].endswith("% turned over") and int(after["state"].split("%")[0]) >= 50
    assert min(before["recall_100"], after["recall_100"]) > 0.98
    assert [row["batches"] > 0 for row in tables["compaction"]] == [True, True]
    assert all(row["cpu_us"] > 0 for row in tables["in the shard, writes alone"])


def test_the_interval_of_a_loss_holds_its_median() -> None:
    loss, low, high = loss_interval([0.99, 0.98, 1.01, 0.97, 1.0])
    assert loss == pytest.approx(0.01)
    assert pytest.approx(-0.01) == low
    assert pytest.approx(0.03) == high


def test_bodies_say_the_writes(tmp_path: Path) -> None:
    items = LiveItems(500, 8, 4)
    catalog = Catalog.open(items.publish(tmp_path, 8))
    writes = [*items.turn_over(6), *items.flip(3)]
    call = parse_items(msgpack.unpackb(pack_body(writes)), catalog, RouterSettings())
    assert not call.errors
    assert [write.id for write in call.writes if isinstance(write, Upsert)] == [500, 501, 502]
    assert [write.id for write in call.writes if isinstance(write, Delete)] == [0, 1, 2]
    (upsert, *_) = [write for write in call.writes if isinstance(write, Upsert)]
    np.testing.assert_allclose(upsert.vector, items.vectors[500], atol=1e-7)
    patches = [write for write in writes if isinstance(write, Patch)]
    assert [write for write in call.writes if isinstance(write, Patch)] == patches


def test_items_turn_over(tmp_path: Path) -> None:
    items = LiveItems(500, 8, 4)
    assert items.held().sum() == 500
    items.note(items.turn_over(200))
    assert items.held().sum() == 500 and items.replaced == 100
    assert items.held()[100:600].all()
