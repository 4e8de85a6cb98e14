"""`silverray loadtest`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from silverray.cluster.commands.terminal import notes, print_json, progress_bar, results
from silverray.cluster.loadtest.lateness import LatenessProbe
from silverray.cluster.loadtest.loadtest import LoadPlan, Outcome, read_queries, run_load
from silverray.cluster.loadtest.report import LoadReport
from silverray.cluster.loadtest.truth import read_truths
from silverray.router.http.client import SearchClient


class LoadFailed(RuntimeError):
    """A load was not answered as well as was asked for."""


def load(queries: Path, truth: Path | None, **options: Any) -> LoadPlan:
    """Read the files of a load test.

    Args:
        queries: JSON lines of search bodies.
        truth: JSON lines of their true answers.
        options: the other fields of `LoadPlan`.

    Raises:
        QueryFileError: a file is wrong.
    """
    bodies = read_queries(queries)
    return LoadPlan(bodies=bodies, truths=read_truths(truth, bodies) if truth else None, **options)


def run_loadtest(
    plan: LoadPlan, folder: Path | None, *, as_json: bool, max_errors: float = 1.0, min_recall: float | None = None
) -> None:
    """Load a service with a progress bar, print what was found and, where asked for, write it.

    Args:
        plan: what load to make.
        folder: where to write the report; None writes none.
        as_json: whether to print JSON.
        max_errors: largest share of the requests that may end in errors.
        min_recall: least mean recall.

    Raises:
        SearchError: there is no service at the URL.
        ValueError: a recall is asked for, but no truth is given.
        LoadFailed: no request was answered, more than `max_errors` were not, or recall is too low.
    """
    if min_recall is not None and plan.truths is None:
        raise ValueError("--min-recall: expected --truth, which recall is measured by")
    report, outcomes = measure(plan)
    if folder is not None:
        report.write(folder, outcomes)
        notes.print(f"wrote {folder / 'report.json'} and {folder / 'latency.png'}", soft_wrap=True)
    if as_json:
        print_json(report.to_document())
    else:
        results.print(report.to_table())
    if (shortfall := report.shortfall(max_errors, min_recall or 0.0)) is not None:
        raise LoadFailed(f"load test: {shortfall}")


def measure(plan: LoadPlan) -> tuple[LoadReport, list[Outcome]]:
    """Load a service with a progress bar.

    Raises:
        SearchError: there is no service at the URL.
    """
    with SearchClient(plan.url) as client:
        status = client.get("/v1/status")
    probe = LatenessProbe(plan.url, routers=_routers(status))
    with progress_bar() as bar:
        task = bar.add_task("load", total=len(plan.departures()))

        def show(seconds: float, sent: int, answered: int) -> None:
            waiting = sent - answered
            bar.update(task, completed=answered, description=f"load {seconds:.0f} s, {waiting} in flight")

        outcomes = asyncio.run(run_load(plan, show))
    return LoadReport.of(plan, outcomes, probe.measure()), outcomes


def _routers(status: dict[str, Any]) -> int:
    applications = status.get("applications") or {}
    name = f"{status.get('service')}-router"
    return max(1, int(applications.get(name, {}).get("replicas", {}).get("RUNNING", 1)))
