"""The GPU benchmark in a few lines: what failed, what has a target, and what it reached."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from silverray.benchmarks.gpu import checks, figures, peers

Tables = Mapping[str, Sequence[Mapping[str, Any]]]

SCAN_TARGET, SCAN_BATCH = 0.6, 64
"""Share of the read bandwidth that the scan should reach from this batch up."""
MOST_PROBLEMS = 20
"""A summary is read in a terminal; where so many are wrong, they have one cause."""


def summarise(tables: Tables) -> str:
    """The lines, under 100 of them."""
    parts = (_checks, _problems, _headline, _steps, _scan, _planes, _peers, _model)
    return "\n".join(line for part in parts for line in part(tables))


def _measured(tables: Tables, title: str) -> list[Mapping[str, Any]]:
    return [row for row in tables.get(title, ()) if row.get("us_p50") is not None]


def _checks(tables: Tables) -> Iterator[str]:
    rows = tables.get(checks.TITLE, ())
    wrong = [row for row in rows if row["outcome"] != "same"]
    yield f"checks: {len(rows) - len(wrong)} of {len(rows)} the same as the reference"
    for row in wrong[:MOST_PROBLEMS]:
        where = f"{row['items']:,} x {row['dimensions']}, {row['queries']} queries, k {row['k']}, {row['share']:.1%}"
        yield f"  {row['kernel']} ({where}): {row['outcome']}"


def _problems(tables: Tables) -> Iterator[str]:
    failed = [(title, row) for title, rows in tables.items() for row in rows if row.get("failed")]
    for title, row in failed[:MOST_PROBLEMS]:
        cells = ", ".join(f"{name} {row[name]}" for name in list(row)[1:7] if name not in ("failed", "error"))
        yield f"failed: {title} ({cells}): {row['failed']}"


def _headline(tables: Tables) -> Iterator[str]:
    for row in _measured(tables, figures.RETRIEVE):
        if row.get("headline"):
            reached = "reached" if row["us_p50"] <= row["target_us"] else "missed"
            yield (
                f"headline, {row['items']:,} items, batch {row['batch']}, k {row['k']}, {row['share']:.0%} pass: "
                f"{row['us_p50']:,.0f} us in a graph (p20 {row['us_p20']:,.0f}, p80 {row['us_p80']:,.0f}; "
                f"L2 cold {row['cold_us_p50']:,.0f}; eager {row['eager_us_p50']:,.0f}), "
                f"target {row['target_us']:,.0f} {reached}"
            )


def _steps(tables: Tables) -> Iterator[str]:
    for row in _measured(tables, figures.STEPS)[:24]:
        yield f"  {row['us_p50']:9,.1f} us  {row['step']}"


def _scan(tables: Tables) -> Iterator[str]:
    for row in _measured(tables, figures.SCAN):
        if row["batch"] >= SCAN_BATCH:
            mark = "" if row["of_read"] >= SCAN_TARGET else f", under {SCAN_TARGET:.0%}"
            yield (
                f"scan, {row['items']:,} items, batch {row['batch']}, {row['share']:.1%} pass: "
                f"{row['us_p50']:,.0f} us, {row['of_read']:.0%} of the read bandwidth{mark}"
            )


def _planes(tables: Tables) -> Iterator[str]:
    rows = {(row["items"], row["filter"], row["words"]): row for row in _measured(tables, figures.PLANES)}
    for (items, name, words), row in rows.items():
        whole = rows.get((items, name, "all"))
        if words == "probed" and whole:
            yield (
                f"filter, {items:,} items, {name}: probed words {row['us_p50']:,.1f} us, "
                f"all words {whole['us_p50']:,.1f} us"
            )


def _peers(tables: Tables) -> Iterator[str]:
    for row in _measured(tables, peers.TITLE):
        yield (
            f"peers, {row['items']:,} items, batch {row['batch']}, k {row['k']}, {row['share']:.0%} pass: "
            f"{row['contender']}: {row['us_p50']:,.0f} us, recall {row['recall']:.3f}, ratio {row.get('ratio', 0):.1f}"
        )


def _model(tables: Tables) -> Iterator[str]:
    for row in _measured(tables, figures.MODEL):
        if row["share"] in (1.0, 0.1):
            yield (
                f"model, batch {row['batch']}, k {row['k']}, {row['share']:.0%} pass, {row['plan']}: "
                f"{row['us_p50']:,.0f} us in a graph"
            )
