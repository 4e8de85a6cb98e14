"""Building a snapshot: train, assign, encode and write, partition by partition."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from silverray.kernels.codes import quantize_rows
from silverray.shard.filter.layout import PlaneLayout
from silverray.shard.paths import as_path
from silverray.shard.publish.arguments import (
    Items,
    Vectors,
    as_name,
    as_schema,
    as_table,
    as_vectors,
    as_version,
    as_whole,
)
from silverray.shard.publish.kmeans import Progress, assign, default_clusters, train_centroids
from silverray.shard.publish.recall import measure_recall_curve
from silverray.shard.publish.source import Source, read_source
from silverray.shard.publish.vectors import BLOCK, ItemVectors
from silverray.shard.schema.keys import partition_of
from silverray.shard.schema.schema import Schema
from silverray.shard.snapshot.catalog import CACHE_TYPES, CacheType, Catalog
from silverray.shard.snapshot.documents import read_json
from silverray.shard.snapshot.files import (
    COLUMNS,
    INDEX,
    ITEMS,
    KEYS,
    LAYOUT,
    MODEL,
    PAYLOAD,
    SCORER_WEIGHTS,
    partition_folder,
    write_manifest,
    write_tensors,
)
from silverray.shard.snapshot.manifest import MOST_PARTITIONS
from silverray.shard.snapshot.recall_curve import RecallCurve
from silverray.shard.snapshot.store import new_snapshot
from silverray.shard.threads import in_threads

DEFAULT_PARTITIONS = 64
"""The most shards that can serve a snapshot, and a folder of files each: more than most catalogs need, few enough to
copy."""
DEFAULT_TASK = "default"

_READ_BYTES = 1 << 20
"""Weights may be larger than the memory; from some 64 KiB up a block makes SHA-256 no faster."""


def publish(
    items: Items,
    schema: Schema | Mapping[str, Any] | str | Path,
    out: str | Path,
    *,
    vectors: Vectors | None = None,
    model: str | Path | None = None,
    partitions: int = DEFAULT_PARTITIONS,
    clusters: int | None = None,
    seed: int = 0,
    version: str | None = None,
    seq: int = 0,
    items_seq: int | None = None,
    space: str | None = None,
    cache: CacheType = "fp32",
    progress: Progress | None = None,
) -> Catalog:
    """Build a snapshot and publish it as `out/version`, whole or not at all.

    Args:
        items: a column per schema field, the id column and, unless `vectors` is given, a `vector` column; an Arrow
            table, a data frame of pandas or polars, or a mapping of columns.
        schema: the items' schema; a mapping is what its YAML would say, a path is its YAML file.
        out: the snapshot store, a directory of versions.
        vectors: `[N, D]` float32 in row order: an array, a tensor, or lists of numbers.
        model: directory of a trained user tower, or a scorer, or both, with their `module_info.json`; copied into the
            snapshot.
        partitions: number of partitions, the most shards that can serve the snapshot.
        clusters: number of k-means clusters; by default about twice the square root of the number of items.
        seed: of sampling and training.
        version: name of the snapshot; by default the time in UTC.
        seq: log sequence number that the input includes.
        items_seq: the one that it included before a log was folded into it; by default the same.
        space: name of the vectors' space; by default the model's, or the version's name.
        cache: type in which vectors are kept. In bf16 they take half the room, and exact scores are those of rounded
            vectors.
        progress: told of every step.

    Returns:
        The published snapshot's catalog.

    Raises:
        ValueError: an argument or a row of the input is bad; the message names it.
        SnapshotError: the version exists already.

    Cost:
        Beside the input, memory for the sample of `train_centroids`, the filterable values and one partition a thread.
    """
    version = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ") if version is None else as_version(version)
    if cache not in tuple(CACHE_TYPES):
        raise ValueError(f"cache: expected one of {', '.join(CACHE_TYPES)}, got {cache!r}")
    partitions = as_whole("partitions", partitions, 1, MOST_PARTITIONS)
    seq = as_whole("seq", seq, 0, 2**63 - 1)
    items_seq = seq if items_seq is None else as_whole("items_seq", items_seq, 0, 2**63 - 1)
    seed = as_whole("seed", seed, -(2**63), 2**63 - 1)
    clusters = None if clusters is None else as_whole("clusters", clusters, 1, 2**31 - 1)
    space = None if space is None else as_name("space", space)
    schema, out, model = as_schema(schema), as_path("out", out), None if model is None else as_path("model", model)
    if not (progress is None or callable(progress)):
        raise ValueError(f"progress: expected a function or None, got {type(progress).__name__}")
    tell = progress or _tell_nobody
    source = read_source(as_table(items), schema, None if vectors is None else as_vectors(vectors))
    info = None if model is None else read_model(model, schema)
    centroids, nearest, curve = _train(source.vectors, clusters, schema.vector.metric == "cosine", seed, tell)
    tell("partitions", 0, partitions)
    layout = PlaneLayout.choose(schema, source.columns)
    home = partition_of(source.keys, partitions)
    counts = np.bincount(home, minlength=partitions)
    parts = np.split(np.lexsort((source.keys, nearest.numpy(), home)), counts.cumsum()[:-1])
    with new_snapshot(out, version) as folder:

        def write(number: int) -> None:
            into = folder / partition_folder(number)
            _write_partition(into, source, parts[number], centroids, nearest, layout, CACHE_TYPES[cache])

        for done, _ in enumerate(in_threads(write, range(partitions)), 1):
            tell("partitions", done, partitions)
        tell("seal", 0, 1)
        sizes = torch.bincount(nearest, minlength=len(centroids))
        write_tensors({"centroids": centroids, "sizes": sizes, **curve._asdict()}, folder / INDEX)
        (folder / LAYOUT).write_text(json.dumps(layout.to_json()))
        if model:
            shutil.copytree(model, folder / MODEL)
        facts = {
            "version": version,
            "seq": seq,
            "id_type": source.id_type,
            "schema": schema.model_dump(mode="json"),
            "partition_items": counts.tolist(),
            "clusters": len(centroids),
            "cache": cache,
            "vector_space": space or (info["vector_space"] if info else version),
            "tasks": info["tasks"] if info else [DEFAULT_TASK],
            "model": info,
            "build": {"seed": seed, "items_seq": items_seq},
        }
        write_manifest(folder, facts)
    tell("seal", 1, 1)
    return Catalog.open(out / version)


def _tell_nobody(_stage: str, _done: int, _total: int) -> None:
    pass


def read_model(model: Path, schema: Schema) -> dict[str, Any]:
    """What a directory of a model says of it, and the name of its vector space.

    Raises:
        ValueError: it cannot be read, or has another dimension than the schema.
    """
    file = model / "module_info.json"
    try:
        info = read_json(file)
    except (OSError, ValueError) as error:
        raise ValueError(f"model: {file} cannot be read: {error}") from error
    if not isinstance(info, dict):
        raise ValueError(f"model: {file}: expected an object")
    if info.get("dimension") != schema.vector.dimension:
        raise ValueError(f"model: {file} says dimension {info.get('dimension')}, the schema {schema.vector.dimension}")
    tasks = info.get("tasks")
    if not isinstance(tasks, list) or not tasks or len({as_name("model: task", task) for task in tasks}) < len(tasks):
        raise ValueError(f"model: {file}: tasks: expected a list of names, each once")
    digest = sha256()
    # A scorer leaves the vectors as they are.
    for path in sorted(path for path in model.rglob("*.safetensors") if path.name != SCORER_WEIGHTS):
        with path.open("rb") as weights:
            while block := weights.read(_READ_BYTES):
                digest.update(block)
    return {**info, "vector_space": digest.hexdigest()[:16]}


def _train(
    vectors: ItemVectors, clusters: int | None, spherical: bool, seed: int, tell: Progress
) -> tuple[Tensor, Tensor, RecallCurve]:
    """Centroids `[C, D]`, each item's cluster `[N]` and the recall curve."""
    if not len(vectors):
        curve = RecallCurve(torch.ones(1), torch.ones(1))
        return torch.zeros(1, vectors.dimension), torch.empty(0, dtype=torch.int64), curve
    count = default_clusters(len(vectors)) if clusters is None else clusters
    centroids = train_centroids(vectors, count, spherical=spherical, seed=seed, progress=tell)
    tell("assign", 0, 2)
    nearest = assign(vectors, centroids).nearest
    tell("assign", 1, 2)
    curve = measure_recall_curve(vectors, centroids, nearest, seed=seed)
    tell("assign", 2, 2)
    return centroids, nearest, curve


def _write_partition(
    folder: Path,
    source: Source,
    rows: NDArray[np.int64],
    centroids: Tensor,
    nearest: Tensor,
    layout: PlaneLayout,
    dtype: torch.dtype,
) -> None:
    folder.mkdir(parents=True)
    index = torch.from_numpy(rows)
    clusters = nearest[index]
    write_tensors({"keys": torch.from_numpy(source.keys[rows]), "clusters": clusters.int()}, folder / KEYS)
    columns = source.columns.take(index)
    vectors = source.vectors.rows(rows).to(dtype)
    arrays = {"vectors": vectors, "bits": layout.encode(columns)} | _codes(vectors.float(), centroids, clusters)
    write_tensors(arrays, folder / ITEMS)
    write_tensors(columns.to_tensors(), folder / COLUMNS)
    payload = source.payload.take(pa.array(rows)).combine_chunks()
    with pa.ipc.new_file(str(folder / PAYLOAD), payload.schema) as writer:
        writer.write_table(payload)


def _codes(vectors: Tensor, centroids: Tensor, clusters: Tensor) -> dict[str, Tensor]:
    """Residual codes, made in blocks that stay in the cache."""
    codes = torch.empty(vectors.shape, dtype=torch.int8)
    scales = torch.empty(len(vectors))
    for start in range(0, len(vectors), BLOCK):
        block = slice(start, start + BLOCK)
        codes[block], scales[block] = quantize_rows(vectors[block] - centroids[clusters[block]])
    return {"codes": codes, "scales": scales}
