"""Training by request against training by impression, and against matrix factorisation: `silverray bench roo`.

MovieLens 100K; what somebody rates within a minute is a request. What is stored and read, the same model trained on the
same batches both ways, what longer requests would change, and how well trained towers find held-out likes beside
implicit ALS and BPR.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from silverray.benchmarks.common.report import Report
from silverray.benchmarks.roo.recall import (
    PLACES,
    Split,
    Tuned,
    als,
    bpr,
    grid,
    popularity,
    splits,
    tune,
    two_tower,
)
from silverray.benchmarks.roo.steps import THREADS, compare_steps
from silverray.benchmarks.roo.storage import compare_bytes, compare_reading
from silverray.cluster.demo import movielens
from silverray.cluster.demo.movielens import MovieLens
from silverray.cluster.demo.movielens_requests import HELD_OUT, SPAN_S, movielens_format, write_requests
from silverray.cluster.training.config import TrainConfig
from silverray.shard.train.batch import Batch
from silverray.shard.train.format import RequestFormat, category_rules
from silverray.shard.train.items import ItemTable
from silverray.shard.train.loader import LoaderConfig, RequestLoader
from silverray.shard.train.requests import RequestTable
from silverray.shard.train.shapes import Widths

TITLE = "Training by request on MovieLens 100K"
CONFIG = "movielens-train.yaml"
IMPRESSIONS = 1_480
"""In a batch, about, where requests of several lengths are compared."""
SPANS = (60, 300)
"""The demo's span, and one at which requests have two and a half times as many impressions (decision 22.1)."""
SEEDS = (0, 1, 2)
"""The least and greatest of three say how far a difference can be believed."""
LATEST = (5, 10, None)
"""Likes that a factorisation is told of; None is all."""
WIDE = Widths(dimension=128, hidden=1_024, ids=128, categories=16)

BYTES = {
    "what": "{what}",
    "by impression, bytes": "{impressions:,}",
    "by request, bytes": "{requests:,}",
    "times fewer": "{fewer:.2f}",
}
STEPS = {
    "model": "{model}",
    "requests": "{requests:.0f}",
    "impressions": "{impressions:.0f}",
    "by impression, ms": "{impression_p50:.1f}",
    "by request, ms": "{request_p50:.1f}",
    "p20": "{request_p20:.1f}",
    "p80": "{request_p80:.1f}",
    "times faster": "{faster:.2f}",
    "losses differ by": "{difference:.1e}",
}
LONGER = {
    "seconds": "{span_s}",
    "impressions a request": "{mean:.1f}",
    "user side, times fewer bytes": "{bytes:.2f}",
    "encoded, times fewer": "{encoded:.2f}",
    "steps, times faster": "{faster:.2f}",
    f"recall@{PLACES}, one seed": "{recall:.4f}",
}
READING = {
    "read": "{what}",
    "an epoch, ms": "{ms_p50:.0f}",
    "p20": "{ms_p20:.0f}",
    "p80": "{ms_p80:.0f}",
    "times as long": "{times:.2f}",
}
RECALL = {
    "contender": "{name}",
    f"recall@{PLACES}": "{mean:.4f}",
    "lowest": "{low:.4f}",
    "highest": "{high:.4f}",
    "on validation": "{validation:.4f}",
    "settings tried": "{tried:.0f}",
    "chosen": "{settings}",
}


def run(work: Path, *, quick: bool = False) -> Report:
    """Run the benchmark; `work` keeps the request tables and the last model.

    Raises:
        MovieLensError: the data cannot be fetched.
    """
    data = movielens.load(movielens.fetch())
    folder = work / "roo"
    with as_file(files("silverray.configs")) as configs:
        config = TrainConfig.load(configs / CONFIG, folder=folder.resolve())
    if quick:
        config = config.model_copy(update={"epochs": 1})
    validation, final = splits(data, folder)
    report = Report("roo", TITLE, "silverray bench roo", quick=quick)
    tables = Tables.open(final, config)
    batches = tables.batches(config)
    report.facts(
        {
            "requests": len(tables.requests),
            "impressions": sum(len(batch.request) for batch in batches),
            "seconds of a request": SPAN_S,
            "threads of a step": THREADS,
            "held-out likes": len(final.liked),
            "seeds": SEEDS[:1] if quick else SEEDS,
        }
    )
    report.table("bytes", BYTES, compare_bytes(final.files, tables.format, batches, folder))
    size, rounds = config.batch.requests or 1, 2 if quick else 40
    report.table(
        "reading", READING, compare_reading(final.files, tables.format, tables.items, size, folder, min(rounds, 15))
    )
    models = {"as configured": Widths(**config.widths.model_dump()), "wide": WIDE}
    report.table("a step of training", STEPS, [_step(name, tables, batches, models[name], rounds) for name in models])
    spans = [_of_span(span_s, data, config, folder, rounds) for span_s in (SPANS[:1] if quick else SPANS)]
    report.table("longer requests", LONGER, spans)
    recalls = [tuned.row() for tuned in _tuned(validation, final, config, folder, quick)]
    report.table("held-out likes", RECALL, [*recalls, _popularity(final)])
    return report


class Tables(NamedTuple):
    """A split's requests and items, opened."""

    format: RequestFormat
    requests: RequestTable
    items: ItemTable

    @classmethod
    def open(cls, split: Split, config: TrainConfig) -> Tables:
        format, films = movielens_format(), pq.read_table(split.files.items)
        items = ItemTable.from_arrow(films, config.items.id, category_rules(config.items.features))
        return cls(format, RequestTable.open(split.files.requests, format), items)

    def batches(self, config: TrainConfig) -> list[Batch]:
        """Those of an epoch."""
        return list(RequestLoader(self.requests, self.items, LoaderConfig(requests=config.batch.requests)).batches(0))


def _step(model: str, tables: Tables, batches: Sequence[Batch], widths: Widths, rounds: int) -> dict[str, Any]:
    return {"model": model, **compare_steps(batches, tables.format, tables.items, widths, rounds)}


def _of_span(span_s: int, data: MovieLens, config: TrainConfig, folder: Path, rounds: int) -> dict[str, Any]:
    """What changes with the length of requests; batches keep their impressions."""
    place = folder / f"span-{span_s}"
    split = Split.of(write_requests(data, place, held_out=HELD_OUT, span_s=span_s))
    tables = Tables.open(split, config)
    requests = round(IMPRESSIONS * len(tables.requests) / pq.read_metadata(split.files.impressions).num_rows)
    config = config.model_copy(update={"batch": config.batch.model_copy(update={"requests": requests})})
    batches = tables.batches(config)
    user, encoded, *_ = compare_bytes(split.files, tables.format, batches, place)
    step = compare_steps(batches, tables.format, tables.items, Widths(**config.widths.model_dump()), rounds)
    return {
        "span_s": span_s,
        "mean": step["impressions"] / step["requests"],
        "bytes": user["fewer"],
        "encoded": encoded["fewer"],
        "faster": step["faster"],
        "recall": two_tower(config, folder / "run")()(split, SEEDS[0]),
    }


def _tuned(validation: Split, final: Split, config: TrainConfig, folder: Path, quick: bool) -> list[Tuned]:
    seeds: tuple[int, ...] = SEEDS
    # The configuration was chosen on the same validation split.
    towers = grid()
    als_grid = grid(factors=(64, 128), regularization=(10.0, 30.0), alpha=(1.0,), latest=LATEST)
    bpr_grid = grid(factors=(64,), learning_rate=(0.003, 0.01), regularization=(0.01,), latest=LATEST)
    if quick:
        towers, als_grid, bpr_grid, seeds = towers[:1], als_grid[:1], bpr_grid[:1], SEEDS[:1]
    return [
        tune("two-tower", two_tower(config, folder / "run"), towers, validation, final, seeds),
        tune("implicit ALS", als, als_grid, validation, final, seeds),
        tune("BPR", bpr, bpr_grid, validation, final, seeds),
    ]


def _popularity(final: Split) -> dict[str, Any]:
    found = popularity(final)
    return {"name": "most liked", "mean": found, "low": found, "high": found, "settings": "-"}
