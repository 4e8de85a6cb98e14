"""Building an index from vectors and attributes, against faiss building one from vectors: `silverray bench build`.

Silverray's time is all of `publish`: checking, training, assigning, the recall curve, int8 codes, filter planes,
payload, writing, hashing and flushing to disk. faiss trains on 200,000 vectors and adds all, in memory. Each build runs
in a process of its own that holds the input already; its growth is the peak of its resident memory, file pages
included, over what it was just before. Letters: N items, B queries, D dimensions, C clusters.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter
from numpy.typing import NDArray

from silverray.benchmarks.common.datasets import DataSet, generated
from silverray.benchmarks.common.machine import THREADS
from silverray.benchmarks.common.measure import Timing, ratio
from silverray.benchmarks.common.peers import TRAINING, load
from silverray.benchmarks.common.processes import resident_bytes
from silverray.benchmarks.common.report import Report
from silverray.benchmarks.common.truth import brute_force, recall
from silverray.shard.publish.builder import publish
from silverray.shard.schema.schema import Schema
from silverray.shard.snapshot.files import INDEX, SnapshotFiles

TITLE = "Building an index, 2 threads"
ROUNDS = 5
"""A build takes some ten seconds, and there are two; of five, p20 and p80 are the second and the fourth."""
K = 100
"""Of the figures to reach, and the deeper of two usual ones: bad centroids show there first."""
N_PROBES = (2, 4, 8, 16, 32, 64)
"""From a recall that nobody serves to one of .99; each doubles the work of the one before."""
BUILDS = {
    "contender": "{contender}",
    "seconds": "{s_p50:.2f}",
    "p20": "{s_p20:.2f}",
    "p80": "{s_p80:.2f}",
    "/ faiss": "{ratio:.2f}",
    "growth MiB": "{growth_mib:,.0f}",
    "growth / vectors": "{growth:.2f}",
}
PARTS = {"contender": "{contender}", "step": "{part}", "seconds": "{s_p50:.2f}", "share": "{share:.0%}"}
CENTROIDS = {
    "n_probe": "{n_probe}",
    "recall@100": "{recall:.4f}",
    "faiss's own": "{recall_faiss:.4f}",
    "items visited": "{visited:.2%}",
    "faiss's own visit": "{visited_faiss:.2%}",
}

Floats = NDArray[np.float32]


class Job(NamedTuple):
    """What a child process builds.

    Attributes:
        folder: of the data set.
        out: where Silverray publishes.
        clusters: C.
        items: N, or fewer to warm up.
    """

    folder: Path
    out: Path
    clusters: int
    items: int


class Built(NamedTuple):
    """One build: seconds of each part in order, and growth of the process in bytes (NaN where it cannot be told)."""

    parts: dict[str, float]
    growth: float

    @property
    def seconds(self) -> float:
        """Of the whole build."""
        return sum(self.parts.values())


def run(work: Path, *, quick: bool = False) -> Report:
    """Run the benchmark.

    Args:
        work: folder that keeps the data; needs room for two snapshots.
        quick: little data and few rounds.

    Raises:
        RuntimeError: faiss is not installed.
    """
    load("faiss")
    size = {"items": 8_000, "dimension": 32, "clusters": 64} if quick else {"items": 1_000_000, "dimension": 128}
    data = generated(work, **({"clusters": 2_048} | size), query_count=64 if quick else 512)
    report = Report("build", TITLE, "silverray bench build", quick=quick)
    rounds = 2 if quick else ROUNDS
    report.facts({"data": data.name, "clusters": data.clusters, "rounds": rounds, "threads": THREADS})
    out = data.folder / "build"
    job = Job(data.folder, out, data.clusters, len(data.vectors))
    try:
        builds = _interleaved({"faiss IVF-Flat": build_faiss, "silverray publish": build_silverray}, job, rounds)
        centroids: Floats = SnapshotFiles.open(out / "measured").tensors(INDEX)["centroids"].numpy()
    finally:
        shutil.rmtree(out, ignore_errors=True)
    _compare(report, builds, data)
    _judge(report, data, centroids)
    return report


def build_faiss(job: Job) -> Callable[[], dict[str, float]]:
    """faiss IVF-Flat."""
    faiss = load("faiss")
    faiss.omp_set_num_threads(THREADS)
    vectors = np.load(job.folder / "vectors.npy")[: job.items]

    def build() -> dict[str, float]:
        began = time.perf_counter()
        index = _faiss_index(vectors.shape[1], job.clusters)
        index.train(vectors[np.random.default_rng(0).permutation(len(vectors))[:TRAINING]])
        trained = time.perf_counter()
        index.add(vectors)
        return {"train": trained - began, "add": time.perf_counter() - trained}

    return build


def build_silverray(job: Job) -> Callable[[], dict[str, float]]:
    """Silverray's `publish`."""
    torch.set_num_threads(THREADS)
    vectors = np.load(job.folder / "vectors.npy")[: job.items]
    items = pq.read_table(job.folder / "items.parquet")[: job.items]
    schema = Schema.load(job.folder / "schema.yaml")
    version = "measured" if job.items == len(items) else "warm-up"

    def build() -> dict[str, float]:
        shutil.rmtree(job.out / version, ignore_errors=True)
        stages = Stages()
        tell = stages.progress
        publish(items, schema, job.out, vectors=vectors, clusters=job.clusters, version=version, progress=tell)
        return stages.parts

    return build


class Stages:
    """Turns a build's progress into the seconds of its parts."""

    def __init__(self) -> None:
        self.parts: dict[str, float] = {}
        self._last = time.perf_counter()

    def progress(self, stage: str, done: int, _total: int) -> None:
        """See `silverray.shard.publish.kmeans.Progress`: what ends, or goes on, at each report."""
        part = {
            ("k-means", 0): "check and read",
            ("assign", 0): "train",
            ("assign", 1): "assign",
            ("assign", 2): "recall curve",
            ("partitions", 0): "recall curve",
            ("seal", 0): "encode and write",
            ("seal", 1): "hash and flush",
        }.get((stage, done), {"k-means": "train", "partitions": "encode and write"}.get(stage, stage))
        now = time.perf_counter()
        self.parts[part] = self.parts.get(part, 0) + now - self._last
        self._last = now


def _interleaved(
    contenders: dict[str, Callable[[Job], Callable[[], dict[str, float]]]], job: Job, rounds: int
) -> dict[str, list[Built]]:
    """Build with each contender in turn, each time in a new process."""
    builds: dict[str, list[Built]] = {name: [] for name in contenders}
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        for _ in range(rounds):
            for name, prepare in contenders.items():
                builds[name].append(pool.submit(_measured, prepare, job).result())
    return builds


def _measured(prepare: Callable[[Job], Callable[[], dict[str, float]]], job: Job) -> Built:
    """Build a little, so that libraries are loaded; then build, and watch the memory."""
    prepare(job._replace(items=min(job.items, 40 * job.clusters), clusters=job.clusters // 8))()
    build = prepare(job)
    before = _start_watching()
    parts = build()
    return Built(parts, resident_bytes("VmHWM") - before)


def _start_watching() -> float:
    """Forget the peak so far; returns the resident memory now."""
    if sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")
    return resident_bytes("VmRSS")


def _compare(report: Report, builds: dict[str, list[Built]], data: DataSet) -> None:
    timings = {name: Timing.of([built.seconds for built in found]) for name, found in builds.items()}
    reference, own = timings.values()
    growths = {name: float(np.median([built.growth for built in found])) for name, found in builds.items()}
    rows = [
        {
            "contender": name,
            **timing.seconds(1, "s"),
            "ratio": ratio(timing, reference),
            "growth_mib": growths[name] / 2**20,
            "growth": growths[name] / data.vectors.nbytes,
        }
        for name, timing in timings.items()
    ]
    report.table("Build", BUILDS, rows)
    steps = [
        {"contender": name, "part": part, **timing.seconds(1, "s"), "share": timing.p50_s / timings[name].p50_s}
        for name, found in builds.items()
        for part, timing in _parts(found).items()
    ]
    report.table("Steps", PARTS, steps)
    report.facts({"build / faiss train + add": ratio(own, reference)})
    report.figure("Seconds", lambda axes: _draw_parts(axes, builds))


def _parts(found: list[Built]) -> dict[str, Timing]:
    return {part: Timing.of([built.parts[part] for built in found]) for part in found[0].parts}


def _judge(report: Report, data: DataSet, centroids: Floats) -> None:
    """Recall at equal n_probe with the published centroids and with faiss's own, both in faiss's lists."""
    truth = brute_force(data.vectors, data.queries, K)
    found: list[list[tuple[float, float]]] = []
    for given in (centroids, None):
        index = _faiss_index(data.vectors.shape[1], data.clusters)
        if given is None:
            index.train(data.vectors[np.random.default_rng(0).permutation(len(data.vectors))[:TRAINING]])
        else:
            index.quantizer.add(given)
            index.is_trained = True
        index.add(data.vectors)
        sizes = np.array([index.invlists.list_size(number) for number in range(data.clusters)])
        points = []
        for n_probe in N_PROBES:
            index.nprobe = n_probe
            ids = index.search(data.queries, K)[1]
            lists = index.quantizer.search(data.queries, n_probe)[1]
            visited = float(sizes[lists].sum(1).mean() / len(data.vectors))
            points.append((recall(data.vectors, data.queries, ids, truth), visited))
        found.append(points)
    own, peer = found
    rows = [
        {"n_probe": n_probe, "recall": a, "visited": b, "recall_faiss": c, "visited_faiss": d}
        for n_probe, (a, b), (c, d) in zip(N_PROBES, own, peer, strict=True)
    ]
    report.table("Centroids: recall at equal n_probe, in faiss's lists", CENTROIDS, rows)
    report.figure("Centroids", lambda axes: _draw_centroids(axes, own, peer))


def _faiss_index(dimension: int, clusters: int) -> Any:
    faiss = load("faiss")
    index = faiss.index_factory(dimension, f"IVF{clusters},Flat", faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid = -(-TRAINING // clusters)
    return index


def _draw_parts(axes: Axes, builds: dict[str, list[Built]]) -> None:
    for name, found in builds.items():
        left = 0.0
        for part, timing in _parts(found).items():
            axes.barh(name, timing.p50_s, left=left, edgecolor="white", label=part)
            left += timing.p50_s
    axes.set(xlabel="seconds, median")
    axes.legend(fontsize="small", ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.12))


def _draw_centroids(axes: Axes, own: list[tuple[float, float]], peer: list[tuple[float, float]]) -> None:
    for name, points in (("silverray", own), ("faiss", peer)):
        recalls, visited = zip(*points, strict=True)
        axes.plot(np.multiply(visited, 100), recalls, marker="o", markersize=3, label=f"{name}'s centroids")
    axes.set(xlabel="items visited, %", ylabel=f"recall@{K}", xscale="log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize="small")
