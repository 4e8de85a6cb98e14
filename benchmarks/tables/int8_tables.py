"""What int8 tables cost: the held-out recall of the demo's user tower with its tables in fp32 and in int8."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from silverray.benchmarks.roo.recall import PLACES
from silverray.cluster.commands.train import train_with_progress
from silverray.cluster.demo import movielens
from silverray.cluster.demo.movielens_requests import HELD_OUT, write_requests
from silverray.cluster.training.config import TrainConfig
from silverray.cluster.training.run import MODEL_FOLDER, VECTORS_FILE, RunData
from silverray.shard.towers.encoder import INFO_FILE, TowerEncoder
from silverray.shard.towers.jagged import features_of
from silverray.shard.towers.table_files import TABLES_FOLDER, load_tables, read_tables
from silverray.shard.towers.tables import int8_tables
from silverray.shard.towers.towers import TowerShape, UserTower
from silverray.shard.train.evaluation import measure_recall, read_likes

COLUMNS = {
    "seed": "{seed}",
    "bytes in fp32": "{fp32_bytes:,}",
    "bytes in int8": "{int8_bytes:,}",
    "recall@20 in fp32": "{fp32:.4f}",
    "recall@20 in int8": "{int8:.4f}",
    "least cosine": "{cosine:.6f}",
}


def compare(work: Path, seeds: int, epochs: int | None) -> list[dict[str, Any]]:
    """Train on MovieLens with each seed, and ask both kinds of tables for the held-out likes.

    Args:
        work: keeps what is trained on.
        seeds: number of trainings.
        epochs: instead of the configuration's.

    Raises:
        MovieLensError: the data cannot be had.
    """
    folder = work / "movielens"
    folder.mkdir(parents=True, exist_ok=True)
    write_requests(movielens.load(movielens.fetch()), folder, held_out=HELD_OUT)
    config = TrainConfig.load(Path(str(files("silverray.configs") / "movielens-train.yaml")), folder=folder.resolve())
    if epochs:
        config = config.model_copy(update={"epochs": epochs})
    return [_compare(config.model_copy(update={"seed": seed})) for seed in range(seeds)]


def _compare(config: TrainConfig) -> dict[str, Any]:
    train_with_progress(config)
    model, data = config.out / MODEL_FOLDER, RunData.open(config)
    tables, vectors = read_tables(model / TABLES_FOLDER), torch.from_numpy(np.load(config.out / VECTORS_FILE))
    assert data.held_out is not None and config.recall is not None, "the demo's configuration has both"
    task = data.format.tasks.index(config.recall.task)
    likes = list(read_likes(data.held_out, data.items, data.keys, task))
    tower = _tower(model)
    kinds: dict[str, nn.Module] = {"fp32": tower.embeddings, "int8": int8_tables(tables, model / TABLES_FOLDER)}
    row: dict[str, Any] = {"seed": config.seed}
    encoded = []
    for kind, tower.embeddings in kinds.items():
        row[kind] = measure_recall(tower, vectors, iter(likes), np.zeros(len(vectors), np.int64), 0, PLACES).model
        with torch.inference_mode():
            encoded.append(torch.cat([tower(features_of(some.users)) for some in likes]))
    row["cosine"] = float((encoded[0] * encoded[1]).sum(dim=2).min())
    return row | {
        "likes": sum(len(some.liked) for some in likes),
        "fp32_bytes": sum(table.bytes for table in tables),
        "int8_bytes": sum(table.int8_bytes for table in tables),
    }


def _tower(model: Path) -> UserTower:
    """The tower that was saved, with its tables in fp32."""
    tables = read_tables(model / TABLES_FOLDER)
    sizes = json.loads((model / INFO_FILE).read_text(encoding="utf-8"))["tower"]
    tower = UserTower(TowerShape(tables, **sizes))
    load_tables(model / TABLES_FOLDER, tables, tower.embeddings)
    encoder = TowerEncoder.load(model)
    tower.layers = encoder.layers
    encoder.close()
    return tower.eval()
