"""The files and tables of a report."""

import json
from io import StringIO
from pathlib import Path

import numpy as np
from rich.console import Console

from silverray.benchmarks.common.report import QUICK, Report

COLUMNS = {"what": "{name}", "time": "{p50:.1f} ms", "share": "{share:.0%}"}
ROWS = [{"name": "a|b", "p50": np.float32(1.25), "share": 0.5, "p20": 1}, {"name": "[c]", "p50": 2.0, "share": None}]


def filled(quick: bool = False) -> Report:
    report = Report("probe", "A probe", "silverray bench probe", quick=quick)
    report.facts({"items": 1_000, "build": {"seconds": 2.5}})
    report.table("times", COLUMNS, ROWS)
    return report


def test_json_holds_every_cell_and_the_machine(tmp_path: Path) -> None:
    filled().write(tmp_path / "new" / "folder")
    document = json.loads((tmp_path / "new" / "folder" / "probe.json").read_text())
    assert document["tables"] == [{"title": "times", "rows": [ROWS[0] | {"p50": 1.25}, ROWS[1]]}]
    assert (document["name"], document["command"], document["quick"]) == ("probe", "silverray bench probe", False)
    assert document["facts"] == {"items": 1_000, "build": {"seconds": 2.5}}
    assert document["machine"]["cores"] >= 1
    assert document["machine"]["versions"]["torch"].startswith("2.")


def test_markdown_is_a_table_with_escaped_cells(tmp_path: Path) -> None:
    files = filled().write(tmp_path)
    assert [file.name for file in files] == ["probe.json", "probe.md"]
    text = files[1].read_text()
    assert "| what | time | share |\n| --- | ---: | ---: |\n| a\\|b | 1.2 ms | 50% |\n| [c] | 2.0 ms | - |\n" in text
    assert "- build: seconds 2.5\n" in text
    assert "    silverray bench probe\n" in text
    assert QUICK not in text


def test_a_picture_is_drawn_when_there_is_a_figure(tmp_path: Path) -> None:
    report = filled()
    report.figure("line", lambda axes: axes.plot([1, 2], [3, 4]))
    files = report.write(tmp_path)
    assert files[2].read_bytes()[:4] == b"\x89PNG"
    assert "![A probe](probe.png)" in files[1].read_text()


def test_quick_runs_say_so_everywhere(tmp_path: Path) -> None:
    shown = StringIO()
    filled(quick=True).print(Console(file=shown, width=120))
    assert QUICK in shown.getvalue()
    assert "[c]" in shown.getvalue()
    _, text = filled(quick=True).write(tmp_path)
    assert QUICK in text.read_text()
    assert json.loads((tmp_path / "probe.json").read_text())["quick"] is True
