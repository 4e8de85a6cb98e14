"""What a load test found: figures, a table, and a picture of latency over time."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from silverray.cluster.loadtest.lateness import Lateness
from silverray.cluster.loadtest.loadtest import SATURATED, LoadPlan, Outcome

_QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}
_WINDOWS = 100
"""Of half a minute at 500 requests/s each has 150, enough for a p99; longer windows would smooth a stall away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """Figures of a load test; latencies count from when a request should have left.

    Attributes:
        url: where the service answered.
        asked_rate: requests per second that were asked for.
        achieved_rate: replies per second.
        duration_s: how long requests left.
        requests: how many left or should have.
        replies: how many were answered without an error.
        latency_ms: p50, p90, p99, p99_9 and max over the replies; empty without any.
        errors: number of errors by code.
        degraded_share: share of the replies that lack any shard.
        recall: mean over the replies; None without a truth file.
        lateness: how late answers left the server after their deadlines; None where it does not tell.
    """

    url: str
    asked_rate: float
    achieved_rate: float
    duration_s: float
    requests: int
    replies: int
    latency_ms: dict[str, float]
    errors: dict[str, int]
    degraded_share: float
    recall: float | None
    lateness: Lateness | None

    @classmethod
    def of(cls, plan: LoadPlan, outcomes: Sequence[Outcome], lateness: Lateness | None = None) -> LoadReport:
        """Sum up the outcomes of a load."""
        good = [outcome for outcome in outcomes if outcome.error is None]
        end = max((outcome.sent_s + outcome.latency_s for outcome in good), default=plan.duration_s)
        recalls = [outcome.recall for outcome in good if outcome.recall is not None]
        return cls(
            url=plan.url,
            asked_rate=plan.rate,
            achieved_rate=round(len(good) / max(plan.duration_s, end), 2),
            duration_s=plan.duration_s,
            requests=len(outcomes),
            replies=len(good),
            latency_ms=_latency_ms(good),
            errors=dict(Counter(outcome.error for outcome in outcomes if outcome.error is not None)),
            degraded_share=sum(outcome.degraded for outcome in good) / max(1, len(good)),
            recall=float(np.mean(recalls)) if recalls else None,
            lateness=lateness,
        )

    def shortfall(self, max_errors: float, min_recall: float = 0.0) -> str | None:
        """Why the load was not answered well enough; None if it was.

        Args:
            max_errors: largest share of the requests that may end in errors; without any reply it is never enough.
            min_recall: least mean recall; not looked at where none was measured.
        """
        errors = self.requests - self.replies
        if errors and (not self.replies or errors / self.requests > max_errors):
            kinds = ", ".join(f"{code}: {count:,}" for code, count in self.errors.items())
            bound = f"at most {max_errors:.1%}" if self.replies else "replies"
            return f"{errors:,} of {self.requests:,} requests failed ({kinds}); expected {bound}"
        if self.recall is not None and self.recall < min_recall:
            return f"recall {self.recall:.4f}, expected at least {min_recall:g}"
        return None

    def to_document(self) -> dict[str, Any]:
        """The figures as a JSON document."""
        return asdict(self)

    def to_table(self) -> Table:
        """The figures as a table for a terminal."""
        table = Table(title=f"load test of {self.url}", show_header=False, title_justify="left")
        table.add_column(justify="left")
        table.add_column(justify="right")
        table.add_row("rate asked / achieved", f"{self.asked_rate:,.1f} / {self.achieved_rate:,.1f} per s")
        table.add_row("requests / replies", f"{self.requests:,} / {self.replies:,}")
        for name, value in self.latency_ms.items():
            table.add_row(f"latency {name.replace('_', '.')}", f"{value:,.2f} ms")
        table.add_row("errors", ", ".join(f"{code}: {n:,}" for code, n in self.errors.items()) or "none")
        table.add_row("degraded", f"{self.degraded_share:.2%}")
        if self.recall is not None:
            table.add_row("recall", f"{self.recall:.4f}")
        if self.lateness is not None:
            late = self.lateness
            table.add_row("left after deadline p99.9 / max", f"{late.p99_9_ms:.2f} / {late.max_ms:.2f} ms")
        return table

    def write(self, folder: Path, outcomes: Sequence[Outcome]) -> None:
        """Write `report.json` and `latency.png` into a folder, which is made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "report.json").write_text(json.dumps(self.to_document(), indent=2) + "\n", encoding="utf-8")
        _draw(self, outcomes, folder / "latency.png")


def _latency_ms(good: Sequence[Outcome]) -> dict[str, float]:
    if not good:
        return {}
    latencies = np.array([outcome.latency_s for outcome in good]) * 1e3
    # An observed value, not one between two: the tail of a small test must not look better than it was.
    values = np.quantile(latencies, list(_QUANTILES.values()), method="higher")
    named = zip(_QUANTILES, values, strict=True)
    return {name: round(float(value), 3) for name, value in named} | {"max": round(float(latencies.max()), 3)}


def _draw(report: LoadReport, outcomes: Sequence[Outcome], file: Path) -> None:
    figure = Figure(figsize=(10, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    good = [outcome for outcome in outcomes if outcome.error is None]
    for degraded, colour in ((False, "tab:blue"), (True, "tab:orange")):
        points = [outcome for outcome in good if outcome.degraded == degraded]
        axes.scatter(
            [point.sent_s for point in points],
            [point.latency_s * 1e3 for point in points],
            s=3,
            alpha=0.3,
            color=colour,
            label="degraded reply" if degraded else "reply",
        )
    failed = [o for o in outcomes if o.error is not None and o.error != SATURATED]
    axes.scatter(
        [o.sent_s for o in failed], [o.latency_s * 1e3 for o in failed], s=8, marker="x", color="tab:red", label="error"
    )
    _draw_tail(axes, good, report.duration_s)
    axes.set(xlabel="intended send time in s", ylabel="latency in ms", yscale="log", title=_title(report))
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(loc="upper right", markerscale=3)
    figure.savefig(file, dpi=110)


def _draw_tail(axes: Any, good: Sequence[Outcome], duration_s: float) -> None:
    sent = np.array([outcome.sent_s for outcome in good])
    latency = np.array([outcome.latency_s for outcome in good]) * 1e3
    edges = np.linspace(0, duration_s, _WINDOWS + 1)
    windows = np.digitize(sent, edges) - 1
    filled = np.unique(windows)
    tail = [float(np.quantile(latency[windows == window], 0.99)) for window in filled]
    axes.plot((edges[filled] + duration_s / _WINDOWS / 2), tail, color="black", linewidth=1, label="p99 of a window")


def _title(report: LoadReport) -> str:
    p99 = report.latency_ms.get("p99")
    tail = f", p99 {p99:.1f} ms" if p99 is not None else ""
    return f"{report.achieved_rate:,.0f} replies per s of {report.asked_rate:,.0f} asked{tail}"
