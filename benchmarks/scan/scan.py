"""Search on a CPU against what a user would pick instead, at equal recall: `silverray bench scan`.

A row is a contender at the smallest setting that reaches the recall asked for; all rows of a group are measured
interleaved. The shares say what part of the items passes the filter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from rich.progress import Progress as Bars

from silverray.benchmarks.common.datasets import FILTERS, DataSet, generated, glove
from silverray.benchmarks.common.peers import OPENERS, Progress
from silverray.benchmarks.common.report import Report
from silverray.benchmarks.scan.arena import REFERENCE, SELECTIVE_TARGET, TARGET, Arena, Cell
from silverray.benchmarks.scan.roofline import add_roofline

TITLE = "Search on a CPU, side by side"
DATA = ("clustered", "glove")
COLUMNS = {
    "batch": "{batch}",
    "pass": "{share:.1%}",
    "contender": "{contender}",
    "setting": "{setting}",
    "recall": "{recall:.4f}",
    "queries/s": "{qps_p50:,.0f}",
    "p20": "{qps_p20:,.0f}",
    "p80": "{qps_p80:,.0f}",
    f"/ {REFERENCE}": "{ratio:.2f}",
}


def cells() -> Iterator[Cell]:
    """Every group, those that share threads and k together."""
    for share in FILTERS:
        for batch in (1, 64, 512):
            yield Cell(100, batch, share, 2)
    for share in FILTERS:
        yield Cell(10, 64, share, 2)
    for share in (1.0, 0.1):
        for batch in (1, 64):
            yield Cell(100, batch, share, 1)


def run(
    work: Path, *, quick: bool = False, peers: Collection[str] = tuple(OPENERS), data: Collection[str] = DATA
) -> Report:
    """Run the benchmark.

    Args:
        work: folder that keeps data and indexes; a first run builds them, which takes many minutes.
        quick: little data and few rounds.
        peers: names of the peers, of `silverray.benchmarks.common.peers.OPENERS`.
        data: names of the data sets, of `DATA`.

    Raises:
        ValueError: there is no such peer or data set.
        RuntimeError: a peer's library is not installed.
    """
    if unknown := [name for name in data if name not in DATA]:
        raise ValueError(f"data: there is no {unknown[0]!r}; there are {', '.join(DATA)}")
    options = [f"--data {','.join(data)}"] * (tuple(data) != DATA) + [f"--peers {','.join(peers)}"] * (
        tuple(peers) != tuple(OPENERS)
    )
    report = Report("scan", TITLE, " ".join(["silverray bench scan", *options]), quick=quick)
    report.facts({"rounds": _rounds(quick), "recall": TARGET, "recall where 1 % or less pass": SELECTIVE_TARGET})
    for name in tuple(data)[: 1 if quick else None]:
        with Bars(transient=True) as bars:
            _compare(report, Arena(_load(name, work, quick), peers, _rounds(quick), _showing(bars)), quick)
    return report


def _rounds(quick: bool) -> int:
    return 3 if quick else 9


def _load(name: str, work: Path, quick: bool) -> DataSet:
    if quick:
        return generated(work, items=8_000, dimension=32, clusters=64, query_count=64)
    if name == "glove":
        return glove(work, clusters=1_024, query_count=512)
    return generated(work, items=1_000_000, dimension=128, clusters=2_048, query_count=512)


def _compare(report: Report, arena: Arena, quick: bool) -> None:
    tables: dict[str, list[dict[str, Any]]] = {}
    chosen = [Cell(10, 64, 1.0, 2), Cell(10, 1, 0.01, 2)] if quick else list(cells())
    for cell in chosen:
        title = f"{arena.data.name}, k = {cell.k}, {cell.threads} threads".replace("1 threads", "1 thread")
        tables.setdefault(title, []).extend(arena.measure(cell))
    for title, rows in tables.items():
        report.table(title, COLUMNS, rows)
    curves = {contender.name: arena.curve(contender, chosen[0].k) for contender in (arena.own[0], *arena.peers)}
    report.figure(f"{arena.data.name}, k = {chosen[0].k}, batches of 64", lambda axes: _draw(axes, curves))
    add_roofline(report, arena.data.name, arena.lists, (2, 1), arena.rounds)


def _draw(axes: Axes, curves: dict[str, list[tuple[float, float]]]) -> None:
    for name, points in curves.items():
        own = name.startswith("silverray")
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=2 if own else 1, label=name)
    axes.axvline(TARGET, color="grey", linewidth=0.5)
    axes.set(xlabel="recall", ylabel="queries per second", yscale="log", xlim=(0.75, 1.005))
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize="small")


def _showing(bars: Bars) -> Progress:
    tasks: dict[str, Any] = {}

    def show(stage: str, done: int, total: int) -> None:
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total)
        bars.update(tasks[stage], completed=done, total=total)

    return show
