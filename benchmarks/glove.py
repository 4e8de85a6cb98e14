"""Recall and time of the embedded search with default settings on real word vectors: `silverray bench glove`.

GloVe, 400,000 x 50, cosine: queries lie between two words or near one, filters pass 10 %, 1 % and 0.1 %. The time is
that of `LocalSearcher.search_batch`; recall is against brute force and counts ties.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np

from silverray.benchmarks.common.datasets import FILTERS, DataSet, glove
from silverray.benchmarks.common.measure import interleave
from silverray.benchmarks.common.report import Report
from silverray.benchmarks.common.truth import brute_force, recall
from silverray.shard.api import SearchReply, SearchRequest
from silverray.shard.local import LocalSearcher
from silverray.shard.searcher import ShardSearcher

TITLE = "The embedded search with default settings on GloVe, 400,000 x 50"
QUERIES, QUICK_QUERIES = 512, 64
"""One query is 0.0002 of recall@10; brute force over them takes seconds."""
BATCH = 64
"""The largest that a router sends by default."""
CLUSTERS = 1_024
"""The power of two that `publish` would choose by itself for so many items."""
KS = (10, 100)
"""A list on a screen, and the candidates of a ranking."""
COLUMNS = {
    "pass": "{share:.1%}",
    "k": "{k}",
    "recall": "{recall:.4f}",
    "ms a query": "{ms_p50:.3f}",
    "p20": "{ms_p20:.3f}",
    "p80": "{ms_p80:.3f}",
    "items scored": "{scored:,.0f}",
}


def run(work: Path, *, quick: bool = False) -> Report:
    """Run the benchmark; `work` keeps the vectors, which are fetched once, and the snapshot.

    Raises:
        RuntimeError: the vectors could not be fetched or published.
    """
    report = Report("glove", TITLE, "silverray bench glove", quick=quick)
    data = glove(work, CLUSTERS, QUICK_QUERIES if quick else QUERIES)
    report.facts({"build": data.build, "batch": BATCH})
    searcher = LocalSearcher.open(data.snapshot)
    rows = [_measure(searcher, data, share, k, 3 if quick else 15) for share in FILTERS for k in KS]
    report.table("default settings", COLUMNS, rows)
    return report


def _measure(searcher: LocalSearcher, data: DataSet, share: float, k: int, rounds: int) -> dict[str, Any]:
    passing, text = data.passing(share), FILTERS[share]
    found = searcher.search_batch(data.queries, text, k=k).ids
    truth = brute_force(data.vectors, data.queries, k, passing)

    def ask() -> None:
        for start in range(0, len(data.queries), BATCH):
            searcher.search_batch(data.queries[start : start + BATCH], text, k=k)

    timing = interleave({"silverray": ask}, rounds=rounds)["silverray"]
    return {
        "share": share,
        "k": k,
        "recall": recall(data.vectors, data.queries, found, truth, passing),
        **timing.seconds(1e-3, "ms", len(data.queries)),
        "scored": _items_scored(searcher, data, text, k),
    }


def _items_scored(searcher: LocalSearcher, data: DataSet, text: str | None, k: int) -> float:
    """The median over a batch of queries."""
    requests = [SearchRequest(vectors=query[None], filter=text, k=k, explain=True) for query in data.queries[:BATCH]]
    replies = asyncio.run(ShardSearcher(searcher.engine).search(requests))
    scored = [reply.explain["scored"] for reply in replies if isinstance(reply, SearchReply) and reply.explain]
    return float(np.median(scored))
