"""Training by request against training by impression, and against matrix factorisation: `silverray bench roo`.

MovieLens 100K; what somebody rates within five minutes is a request. What is stored and read, the same model trained on
the same batches both ways, and how well trained towers find held-out likes beside implicit ALS and BPR.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from silverray.benchmarks.report import Report
from silverray.benchmarks.roo_recall import PLACES, Split, Tuned, als, bpr, grid, popularity, splits, tune, two_tower
from silverray.benchmarks.roo_steps import compare_steps
from silverray.benchmarks.roo_storage import compare_bytes, compare_reading
from silverray.cluster import movielens
from silverray.cluster.movielens_requests import SPAN_S, movielens_format
from silverray.cluster.training.config import TrainConfig
from silverray.shard.train.format import category_rules
from silverray.shard.train.items import ItemTable
from silverray.shard.train.loader import LoaderConfig, RequestLoader
from silverray.shard.train.requests import RequestTable
from silverray.shard.train.shapes import Widths

TITLE = "Training by request on MovieLens 100K"
CONFIG = "movielens-train.yaml"
REQUESTS = 128
"""In a batch."""
SEEDS = (0, 1, 2)
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
    validation, final = splits(data, folder)
    format = movielens_format()
    films = pq.read_table(final.files.items)
    items = ItemTable.from_arrow(films, config.items.id, category_rules(config.items.features))
    table = RequestTable.open(final.files.requests, format)
    batches = list(RequestLoader(table, items, LoaderConfig(requests=REQUESTS)).batches(0))
    report = Report("roo", TITLE, "silverray bench roo", quick=quick)
    report.facts(
        {
            "requests": len(table),
            "impressions": sum(len(batch.request) for batch in batches),
            "seconds of a request": SPAN_S,
            "held-out likes": len(final.liked),
            "seeds": SEEDS[:1] if quick else SEEDS,
        }
    )
    report.table("bytes", BYTES, compare_bytes(final.files, format, batches, folder))
    reading = compare_reading(final.files, format, items, REQUESTS, folder, 2 if quick else 15)
    report.table("reading", READING, reading)
    models = {"as configured": Widths(**config.widths.model_dump()), "wide": WIDE}
    rounds = 5 if quick else 100
    steps = ({"model": name, **compare_steps(batches, format, items, model, rounds)} for name, model in models.items())
    report.table("a step of training", STEPS, steps)
    recalls = [tuned.row() for tuned in _tuned(validation, final, config, folder, quick)]
    report.table("held-out likes", RECALL, [*recalls, _popularity(final)])
    return report


def _tuned(validation: Split, final: Split, config: TrainConfig, folder: Path, quick: bool) -> list[Tuned]:
    seeds: tuple[int, ...] = SEEDS
    towers = grid(temperature=(0.05, 0.1, 0.2), dropout__history=(0.0, 0.3))
    als_grid = grid(factors=(16, 32, 64, 128), regularization=(0.01, 1.0, 10.0, 100.0), alpha=(1.0, 5.0, 20.0))
    bpr_grid = grid(factors=(32, 64, 128), learning_rate=(0.01, 0.03, 0.1), regularization=(0.003, 0.01, 0.03))
    if quick:
        config = config.model_copy(update={"epochs": 1})
        towers, als_grid, bpr_grid, seeds = towers[:1], als_grid[:1], bpr_grid[:1], SEEDS[:1]
    return [
        tune("two-tower", two_tower(config, folder / "run"), towers, validation, final, seeds),
        tune("implicit ALS", als, als_grid, validation, final, seeds),
        tune("BPR", bpr, bpr_grid, validation, final, seeds),
    ]


def _popularity(final: Split) -> dict[str, Any]:
    found = popularity(final)
    return {"name": "most liked", "mean": found, "low": found, "high": found, "settings": "-"}
