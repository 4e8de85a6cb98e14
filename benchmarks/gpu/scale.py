"""What the GPU benchmark searches: sizes, and the arguments of a search. Letters: Q queries, C clusters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from silverray.benchmarks.gpu.catalog import SHARES, Catalog, Program, encode, make_catalog
from silverray.benchmarks.gpu.timing import device, free_memory
from silverray.kernels.retrieve import Arguments
from silverray.shard.index.ladder import coarse_keep
from silverray.shard.index.planner import SURVIVORS

Sizes = tuple[int, ...]


class Scale(NamedTuple):
    """Sizes of everything.

    Attributes:
        quick: whether they are so small that figures mean nothing.
        items: of the catalogs, the headline's second.
        clusters: of each catalog.
        dimensions: of all.
        batches: numbers of queries.
        ks: numbers of items wanted.
        shares: parts of the items that filters pass.
        n_probe: clusters of a search.
        few: survivors at most.
        width: candidates of a query in a selection.
        rounds: timed calls of a figure.
        edges: items, dimensions, clusters and queries of small catalogs.
    """

    quick: bool
    items: Sizes
    clusters: Sizes
    dimensions: int
    batches: Sizes
    ks: Sizes
    shares: tuple[float, ...]
    n_probe: int
    few: int
    width: int
    rounds: int
    edges: tuple[Sizes, ...]

    def catalog(self, items: int) -> Catalog:
        """The catalog of so many items; only the last one that was asked for is kept."""
        return _catalog(self, items)


FULL = Scale(
    False, (1_000_000, 3_000_000, 20_000_000), (2_048, 2_048, 8_192), 128, (1, 16, 64, 512), (10, 1_000, 100, 10_000),
    SHARES, 24, SURVIVORS, 1_000_000, 40,
    ((1, 1, 1, 1), (63, 16, 2, 3), (65, 50, 3, 17), (1_009, 128, 9, 33), (700, 300, 4, 5)),
)  # fmt: skip
QUICK = Scale(
    True, (500, 600, 900), (6, 6, 8), 16, (1, 3), (4, 20), (1.0, 0.1), 2, 100, 300, 1, ((130, 20, 3, 3),)
)  # fmt: skip

_kept: dict[int, Catalog] = {}


def _catalog(scale: Scale, items: int) -> Catalog:
    if items not in _kept:
        _kept.clear()
        free_memory()
        clusters = scale.clusters[scale.items.index(items)]
        _kept[items] = make_catalog(items, scale.dimensions, clusters, device())
        free_memory()
    return _kept[items]


@cache
def _zeros(queries: int, where: torch.device) -> Tensor:
    return torch.zeros(queries, dtype=torch.int64, device=where)


def arguments(
    catalog: Catalog, queries: Tensor, programs: Sequence[Program], n_probe: int, k: int, room: int | None = None
) -> Arguments:
    """A search of the `n_probe` best lists, every query with a filter of its own.

    Args:
        catalog: what is searched.
        queries: `[Q, D]` float32.
        programs: of each query.
        n_probe: clusters.
        k: items wanted.
        room: slots that may pass for a query; None is enough for any.
    """
    none, where = _zeros(len(queries), queries.device), queries.device
    return Arguments(
        codes=catalog.codes, scales=catalog.scales, vectors=catalog.vectors, keys=catalog.keys,
        offsets=catalog.offsets, sizes=catalog.sizes, planes=catalog.planes, programs=encode(programs, where),
        filters=torch.arange(len(queries), device=where), queries=queries, centroids=catalog.centroids,
        centroid_codes=catalog.coded.values, centroid_scales=catalog.coded.scales, survivors=none.bool(),
        least=torch.full_like(none, n_probe), visit=none, passing=none, few=0, keep=coarse_keep(k), k=k,
        room=catalog.room(n_probe) if room is None else room,
    )  # fmt: skip
