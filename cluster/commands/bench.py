"""`silverray bench`."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console

from silverray.benchmarks.common.report import Report
from silverray.cluster.commands.terminal import notes, results

WIDTH = 130
"""Columns of a file or pipe: the widest tables have eleven short columns, and break below this."""
BENCHMARKS = (
    *("scan", "filter", "build", "http", "overload", "glove", "roo", "tables", "value", "diversity", "ranking"),
    "live",
)
_ROOMS = ("http", "live", "roo", "scan", "tables", "value")
"""Those of several files."""


def run_bench(name: str, out: Path, work: Path, *, quick: bool, peers: str | None, data: str | None) -> None:
    """Run a benchmark, show its tables and write its files."""
    if name not in BENCHMARKS:
        raise ValueError(f"there is no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    given = {"peers": peers, "data": data}
    options: dict[str, Any] = {key: text.split(",") for key, text in given.items() if text is not None}
    if options and name != "scan":
        raise ValueError(f"--{next(iter(options))} is for `silverray bench scan`")
    work.mkdir(parents=True, exist_ok=True)
    report: Report = import_module(
        f"silverray.benchmarks.{name}.{name}" if name in _ROOMS else f"silverray.benchmarks.{name}"
    ).run(work, quick=quick, **options)
    # A file or a pipe has no width of its own, and 80 columns would squeeze the cells.
    report.print(results if results.is_terminal else Console(width=WIDTH))
    for file in report.write(out):
        notes.print(f"written to {file}", highlight=False, soft_wrap=True)
