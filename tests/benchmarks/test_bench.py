"""`silverray bench`, on little data."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from silverray.benchmarks.common.contenders import Ask, Silverray, SilverrayModel
from silverray.benchmarks.common.datasets import FILTERS as FILTERS_BY_SHARE
from silverray.benchmarks.common.datasets import generated
from silverray.benchmarks.common.machine import copy_bandwidth, read_bandwidth, readers
from silverray.benchmarks.filter import FILTERS, evaluate_with_numpy, make_planes
from silverray.benchmarks.scan.roofline import QUERIES, _probes
from silverray.cluster.cli import app
from silverray.kernels.programs import evaluate_programs

PEERS = ("faiss", "hnswlib", "usearch")
needs_peers = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in PEERS), reason="needs the extra `bench`"
)


def bench(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["bench", *arguments])
    return done.exit_code, done.output


@needs_peers
def test_scan_compares_all_contenders(tmp_path: Path) -> None:
    code, output = bench("scan", "--quick", "--work", str(tmp_path / "work"), "--out", str(tmp_path))
    assert code == 0, output
    document = json.loads((tmp_path / "scan.json").read_text())
    assert document["quick"]
    tables = {table["title"]: table["rows"] for table in document["tables"]}
    rows = tables["clustered 8,000 x 32, k = 10, 2 threads"]
    whole = {row["contender"]: row for row in rows if row["share"] == 1}
    names = {"silverray", "silverray, model only", "faiss IVF-Flat", "faiss IVF-SQ8", "faiss HNSW32", "hnswlib M16"}
    assert names < set(whole)
    assert whole["faiss IVF-Flat"]["ratio"] == 1
    for row in whole.values():
        assert row["recall"] >= 0.95
        assert 0 < row["qps_p20"] <= row["qps_p50"] <= row["qps_p80"]
    planned = [row for row in rows if row["setting"] == "planned"]
    assert all(row["recall"] > 0.98 for row in planned)
    (memory,) = (rows for title, rows in tables.items() if title.endswith("against the memory"))
    assert {row["threads"] for row in memory} == {1, 2}
    (allocations,) = (rows for title, rows in tables.items() if title.endswith("one call of the scan"))
    assert [row["queries"] for row in allocations] == [1, 64, 512]
    assert allocations[1]["numba"] == allocations[2]["numba"]
    assert (tmp_path / "scan.png").stat().st_size > 10_000


def test_the_model_alone_finds_what_the_searcher_finds(tmp_path: Path) -> None:
    data = generated(tmp_path, 2_000, 16, 20, 10)
    whole = Silverray(data)
    alone = SilverrayModel(whole)
    for share in FILTERS_BY_SHARE:
        for setting in (None, 5):
            ask = Ask(7, setting, share, threads=1)
            found = alone.search(data.queries, ask)
            assert np.array_equal(found, whole.search(data.queries, ask))
            assert (found >= 0).any()


def test_filter_writes_its_files(tmp_path: Path) -> None:
    code, output = bench("filter", "--quick", "--work", str(tmp_path / "work"), "--out", str(tmp_path))
    assert code == 0, output
    (table,) = json.loads((tmp_path / "filter.json").read_text())["tables"]
    assert [(row["name"], row["contender"]) for row in table["rows"][:3]] == [
        ("4 exact terms", "silverray"),
        ("4 exact terms", "silverray, bits written"),
        ("4 exact terms", "NumPy"),
    ]
    assert [row["planes"] for row in table["rows"][:6:3]] == [5, 13]


def test_diversity_writes_its_files(tmp_path: Path) -> None:
    code, output = bench("diversity", "--quick", "--work", str(tmp_path / "work"), "--out", str(tmp_path))
    assert code == 0, output
    times, effects = json.loads((tmp_path / "diversity.json").read_text())["tables"]
    assert all(0 < row["ms_p20"] <= row["ms_p50"] <= row["ms_p80"] for row in times["rows"])
    for name in ("similarity", "score"):
        values = [row[name] for row in effects["rows"]]
        assert values == sorted(values, reverse=True) and values[0] > values[-1]


def test_mistakes_are_one_line() -> None:
    known = "scan, filter, build, http, overload, glove, roo, tables, value, diversity, ranking, live"
    assert bench("nothing") == (2, f"error: there is no benchmark 'nothing'; there are {known}\n")
    assert bench("filter", "--peers", "ivf") == (2, "error: --peers is for `silverray bench scan`\n")
    assert bench("scan", "--data", "noise") == (2, "error: data: there is no 'noise'; there are clustered, glove\n")


def test_a_missing_peer_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    code, output = bench("scan", "--quick", "--peers", "hnswlib", "--work", str(tmp_path), "--out", str(tmp_path))
    assert code == 1
    assert "error: hnswlib is not installed: pip install 'silverray[bench]'" in output


@pytest.mark.parametrize("queries_per_list", [1, 3])
@pytest.mark.parametrize("clusters", [QUERIES, 150, 2_048])
def test_every_list_is_probed_by_so_many_queries(clusters: int, queries_per_list: int) -> None:
    probes = _probes(clusters, queries_per_list, torch.Generator().manual_seed(0))
    assert len(probes) == QUERIES
    assert np.array_equal(np.bincount(probes[probes >= 0], minlength=clusters), np.full(clusters, queries_per_list))
    for row in probes:
        assert len(set(row[row >= 0].tolist())) == (row >= 0).sum()


def test_numpy_does_the_same_operations() -> None:
    planes = make_planes(3_000)
    for filters in FILTERS.values():
        passing = 0
        programs = planes.programs(filters[:5])
        workspace = np.empty((8, planes.words.shape[1]), np.uint64)
        for program, bits in zip(programs, evaluate_programs(planes.words, programs), strict=True):
            same = evaluate_with_numpy(planes.words.numpy().view(np.uint64), program.tolist(), workspace)
            assert np.array_equal(same.view(np.int64), bits.numpy())
            passing += int(np.bitwise_count(same).sum())
        assert passing > 0


def test_every_reader_sums_all_bytes() -> None:
    data = np.random.default_rng(0).integers(0, 1 << 40, 1_003)
    for threads in (1, 2):
        sums = {name: call() for name, call in readers(data, threads).items()}
        assert {int(value) for name, value in sums.items() if "float" not in name} == {int(data.sum())}  # type: ignore[call-overload]
    assert read_bandwidth(1, 1 << 16) > 1e8
    assert copy_bandwidth(1, 1 << 16) > 1e8


def test_value_compares_with_numpy(tmp_path: Path) -> None:
    code, output = bench("value", "--quick", "--work", str(tmp_path / "work"), "--out", str(tmp_path))
    assert code == 0, output
    table, share = json.loads((tmp_path / "value.json").read_text())["tables"]
    names = ["silverray", "silverray, fields gathered", "NumPy"]
    assert [row["contender"] for row in table["rows"]] == names * 2
    assert [row["threads"] for row in table["rows"]] == [1, 1, 1, 2, 2, 1]
    assert [row["scorer"] for row in share["rows"]] == ["dot_product", "mlp", "mixture_of_logits"]
    assert all(0 < row["value_ms"] < row["ms"] and 0 < row["share"] < 1 for row in share["rows"])
