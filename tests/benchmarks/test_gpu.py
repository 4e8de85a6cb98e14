"""The GPU benchmark as a script, on little data: in Triton's interpreter where there is no GPU."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE_S

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
SECTIONS = [
    "bandwidth", "edges", "headline", "checks 3M", "scan", "filters", "peers", "retrieve", "checks 20M", "selection",
    "checks 1M",
]  # fmt: skip
"""All but the model's, whose kernels on a CPU are not interpreted but compiled."""


def run(script: Path, out: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, str(script), "--quick", "--out", str(out), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    document = json.loads((out / "gpu.json").read_text())
    assert document["quick"]
    return {table["title"]: table["rows"] for table in document["tables"]} | {"facts": document["facts"], "": done}


def test_every_section_runs_and_every_kernel_is_right(tmp_path: Path) -> None:
    found = run(ROOT / "benchmarks" / "gpu" / "gpu.py", tmp_path, "--seconds", "580", "--only", *SECTIONS)
    assert [(row["section"], row["outcome"]) for row in found["Sections"]] == [(name, "complete") for name in SECTIONS]
    checks = found["Kernels against plain PyTorch"]
    assert {row["kernel"].split(",")[0].split(" of ")[0].split(" 2")[0] for row in checks} >= {
        "programs", "exact scores", "selection", "scan", "exact scan", "refine", "survivors", "retrieve",
    }  # fmt: skip
    assert [row for row in checks if row["outcome"] != "same"] == []
    assert found["facts"]["checks that failed"] == 0
    timed = [row for rows in found.values() if isinstance(rows, list) for row in rows]
    assert [row["error"] for row in timed if row.get("failed")] == []
    (headline,) = (row for row in found["The whole search: probe, filter, scan, select, refine"] if "headline" in row)
    assert headline["equal"]
    assert 0 < headline["us_p20"] <= headline["us_p50"] <= headline["us_p80"]
    scans = found["The scan"]
    assert all(row["overflow"] == 0 < row["written"] < row["megabytes"] for row in scans)
    peers = found["Beside brute force and unfused operators"]
    assert peers[0]["contender"].startswith("silverray")
    assert all(row["recall"] > 0.9 for row in peers)
    assert f"checks: {len(checks)} of {len(checks)} the same" in found[""].stdout
    assert "headline, " in found[""].stdout
    assert "its figures mean nothing" in found[""].stdout
    assert "## The scan" in (tmp_path / "gpu.md").read_text()


def test_a_copy_without_links_runs_a_section_in_a_process_of_its_own(tmp_path: Path) -> None:
    for name in ("kernels", "shard", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("results", "__pycache__"))
    found = run(tmp_path / "benchmarks" / "gpu" / "gpu.py", tmp_path, "--isolate", "--only", "bandwidth")
    assert [row["what"] for row in found["The memory"]] == ["read", "copy, read and written"]
    assert [row["outcome"] for row in found["Sections"]] == ["complete"]


def test_a_section_that_fails_is_recorded_and_the_rest_goes_on(tmp_path: Path) -> None:
    for name in ("kernels", "shard", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("results", "__pycache__"))
    with (tmp_path / "benchmarks" / "gpu" / "figures.py").open("a") as file:
        file.write("\n\ndef scan(scale):\n    yield SCAN, {}\n    raise RuntimeError('no such luck')\n")
    found = run(tmp_path / "benchmarks" / "gpu" / "gpu.py", tmp_path, "--only", "scan", "bandwidth", "--seconds", "100")
    first, second = found["Sections"]
    assert (first["rows"], first["outcome"], second["outcome"]) == (1, "failed: no such luck", "complete")
    assert "RuntimeError" in first["error"]


def test_nothing_but_torch_triton_numpy_and_numba_is_needed() -> None:
    program = (
        "import sys\n"
        "others = 'matplotlib pandas pyarrow pydantic ray rich safetensors torchrec typer yaml'.split()\n"
        "sys.modules |= dict.fromkeys(others)\n"
        "import silverray.benchmarks.gpu.gpu, silverray.benchmarks.common.report, silverray.benchmarks.gpu.summary\n"
        "import silverray.benchmarks.gpu.model\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd="/", capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr


def test_time_is_kept(tmp_path: Path) -> None:
    found = run(ROOT / "benchmarks" / "gpu" / "gpu.py", tmp_path, "--only", "edges", "bandwidth", "--seconds", "0.01")
    assert [row["outcome"] for row in found["Sections"]] == ["out of time", "no time left"]
    assert len(found["Kernels against plain PyTorch"]) == 1
