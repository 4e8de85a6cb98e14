"""The retrieval model on a GPU, eager and captured as a CUDA graph, with clusters given and with plans.

Letters: N items, C clusters, S sample queries.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from silverray.benchmarks.gpu.catalog import Catalog, encode, make_queries, sharing
from silverray.benchmarks.gpu.figures import MODEL, Row, Rows, guarded
from silverray.benchmarks.gpu.scale import Scale
from silverray.benchmarks.gpu.timing import Captured, free_memory, time_calls
from silverray.shard.index.inverted_lists import InvertedLists
from silverray.shard.model.retrieval import Found, RetrievalModel
from silverray.shard.publish.recall import DEPTHS
from silverray.shard.schema.columns import Columns
from silverray.shard.snapshot.recall_curve import RecallCurve

SAMPLE = 64
"""A quarter of what `publish` takes: the curve need not be exact where times are compared."""
TARGET = 0.99
"""The recall that `publish` measures its curve for by default."""


def make_model(catalog: Catalog) -> RetrievalModel:
    """The model over a catalog, with a recall curve measured on it."""
    lists = InvertedLists(
        centroids=catalog.centroids, sizes=catalog.sizes, offsets=catalog.offsets, keys=catalog.keys,
        codes=catalog.codes, scales=catalog.scales, vectors=catalog.vectors, planes=catalog.planes,
        columns=Columns(len(catalog.codes), {}),
    )  # fmt: skip
    return RetrievalModel(lists, _curve(catalog))


def _curve(catalog: Catalog) -> RecallCurve:
    """How much must be visited to find the nearest items of queries like those that are asked."""
    items, queries = len(catalog.codes), make_queries(catalog, SAMPLE, seed=99)
    deepest = min(DEPTHS[-1], items)
    best = torch.cat([torch.topk(query @ catalog.vectors.T, deepest).indices[None] for query in queries])
    clusters = torch.searchsorted(catalog.offsets, best, right=True) - 1
    order = torch.argsort(queries @ catalog.centroids.T, dim=1, descending=True)
    visited = torch.empty_like(order).scatter_(1, order, catalog.sizes[order].cumsum(1))
    needed = (visited.gather(1, clusters) / items).cpu()
    depths = [depth for depth in DEPTHS if depth < deepest] + [deepest]
    parts = [_part(needed[:, :depth].flatten()) for depth in depths]
    fractions = torch.stack(parts).cummax(0).values.to(catalog.codes.device)
    return RecallCurve(torch.tensor(depths, dtype=torch.float32, device=fractions.device), fractions)


def _part(values: Tensor) -> Tensor:
    return values.sort().values[min(len(values) - 1, int(len(values) * TARGET))]


def model(scale: Scale) -> Rows:
    """Eager rows first: a capture that fails may leave nothing usable behind."""
    items, k = scale.items[1], scale.ks[min(2, len(scale.ks) - 1)]
    its = make_model(scale.catalog(items))
    batches = scale.batches[-1:] if scale.quick else scale.batches
    cases = [
        (batch, share, n_probe)
        for n_probe in (scale.n_probe, None)
        for batch in batches
        for share in scale.shares[:: 1 if n_probe is None else 2]
    ]
    for captured in (False, True):
        for batch, share, n_probe in cases:
            plan = "planned" if n_probe is None else f"n_probe {n_probe}"
            row = {"items": items, "batch": batch, "k": k, "share": share, "plan": plan}
            call = _asking(its, scale, batch, share, k, n_probe)
            yield MODEL, guarded(row, partial(_timed, scale, call, captured))
            free_memory()


def _asking(
    its: RetrievalModel, scale: Scale, batch: int, share: float, k: int, n_probe: int | None
) -> Callable[[], Found]:
    catalog = scale.catalog(scale.items[1])
    queries = make_queries(catalog, batch)
    programs, where = encode(sharing(share, batch), queries.device), queries.device
    filters, wanted = torch.arange(batch, device=where), torch.full((batch,), k, device=where)
    return lambda: its(queries, programs, filters, wanted, k, n_probe)


def _timed(scale: Scale, call: Callable[[], Found], captured: bool) -> Row:
    found = call()
    row: Row = {"overflow": int(found.overflow.sum()), "survivors": int(found.plan.survivors.sum())}
    if not captured:
        return row | time_calls([call], scale.rounds, waiting=True).seconds(name="eager_us")
    slots, replay = found.slots.clone(), Captured(call)
    same = torch.equal(replay().slots, slots)
    return row | time_calls([replay], scale.rounds).seconds() | {"equal": same}
