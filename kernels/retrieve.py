"""Retrieving: probe, scan and refine in one, or score all that passes, for filters that need no verification.

Letters: N slots, D dimensions, C clusters, Q queries, R planes, W words, U programs, L instructions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from silverray.kernels.centroids import probed_scores, score_centroids
from silverray.kernels.checks import check
from silverray.kernels.ops import define, lazily
from silverray.kernels.probes import check_demands, choose_probes
from silverray.kernels.refine import refine
from silverray.kernels.scan import check_lists, scan
from silverray.kernels.survivors import score_passing


class Arguments(NamedTuple):
    """What `retrieve` reads.

    Attributes:
        codes: `[N, D]` int8, see `scan`, as for `scales`, `keys`, `offsets`, `planes`, `programs`, `filters`,
            `queries` and `keep`.
        scales: `[N]` float32.
        vectors: `[N, D]` float32 or bfloat16, see `refine`.
        keys: `[N]` int64.
        offsets: `[C + 1]` int64.
        sizes: `[C]` int64, see `choose_probes`, as for `least`, `visit` and `passing`.
        planes: `[R, W]` int64.
        programs: `[U, L]` int32.
        filters: `[Q]` int64.
        queries: `[Q, D]` float32.
        centroids: `[C, D]` float32; gaps between rows must hold finite numbers.
        centroid_codes: `[C, D]` int8, see `score_centroids`, as for `centroid_scales`.
        centroid_scales: `[C]` float32.
        survivors: `[Q]` bool; of these queries all that passes is scored exactly, and no cluster is probed.
        least: `[Q]` int64.
        visit: `[Q]` int64.
        passing: `[Q]` int64.
        few: no more slots pass for any of the survivors; 0 where there are no survivors.
        keep: candidates of each query.
        k: how many of them to select.
        room: how many slots may pass in the clusters that a query probes; a GPU holds so many scores of each query
            until it knows the best. A CPU has no need of it.
    """

    codes: Tensor
    scales: Tensor
    vectors: Tensor
    keys: Tensor
    offsets: Tensor
    sizes: Tensor
    planes: Tensor
    programs: Tensor
    filters: Tensor
    queries: Tensor
    centroids: Tensor
    centroid_codes: Tensor
    centroid_scales: Tensor
    survivors: Tensor
    least: Tensor
    visit: Tensor
    passing: Tensor
    few: int
    keep: int
    k: int
    room: int

    def of(self, rows: Tensor) -> Arguments:
        """The same for some of the queries."""
        names = ("filters", "queries", "survivors", "least", "visit", "passing")
        return self._replace(**{name: getattr(self, name)[rows] for name in names})


class Retrieved(NamedTuple):
    """The best slots of each query.

    Attributes:
        scores: `[Q, k]` float32, descending; -inf where there are no more.
        slots: `[Q, k]` int64 by (score desc, key asc); -1 where there are no more.
        overflow: `[Q]` bool, whether `room` was too small: then the answer lacks slots, and the query must be asked
            again with more.
    """

    scores: Tensor
    slots: Tensor
    overflow: Tensor


def retrieve(arguments: Arguments) -> Retrieved:
    """Choose clusters, scan them and refine what was kept: `score_centroids`, `choose_probes`, `scan` and `refine`.

    On a CPU they are one call, which is what makes a single query cheap. On a GPU no step waits for the host, and what
    is launched depends on the shapes alone.

    Returns:
        The k best; the same on every device and for any number of threads.

    Raises:
        ValueError: a wrong dtype or shape.
    """
    its = arguments
    if its.codes.shape != its.vectors.shape or its.codes.dtype != torch.int8:
        raise ValueError(
            f"codes: expected {list(its.vectors.shape)} int8, got {list(its.codes.shape)} {its.codes.dtype}"
        )
    if its.vectors.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"vectors: expected float32 or bfloat16, got {its.vectors.dtype}")
    check_lists(its.codes, its.keys, its.offsets, its.planes, its.programs, its.filters, its.queries)
    check("scales", its.scales, torch.float32, its.codes.shape[0])
    clusters = its.offsets.shape[0] - 1
    check("centroids", its.centroids, torch.float32, clusters, its.codes.shape[1])
    check("centroid_codes", its.centroid_codes, torch.int8, clusters, its.codes.shape[1])
    check("centroid_scales", its.centroid_scales, torch.float32, clusters)
    check("survivors", its.survivors, torch.bool, its.queries.shape[0])
    check_demands(its.queries.shape[0], its.sizes, its.offsets, its.least, its.visit, its.passing)
    return Retrieved(*_retrieve(*its))


def reference(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """`retrieve` by the other ops: the specification."""
    its = Arguments(*arguments)
    filtered = its.planes, its.programs, its.filters
    scores = score_centroids(its.centroid_codes, its.centroid_scales, its.queries)
    probes = choose_probes(scores, its.sizes, its.offsets, *filtered, its.least, its.visit, its.passing)
    bases = probed_scores(its.centroids, its.queries, probes)
    coarse = scan(its.codes, its.scales, its.keys, its.offsets, *filtered, its.queries, probes, bases, its.keep)
    best = refine(its.vectors, its.keys, its.queries, coarse.places, its.k)
    every = score_passing(its.vectors, its.keys, *filtered, its.queries, its.k)
    return (
        torch.where(its.survivors[:, None], every.scores, best.scores),
        torch.where(its.survivors[:, None], every.places, best.places),
        torch.zeros_like(its.survivors),
    )


_retrieve = define(
    "retrieve",
    reference,
    arguments=Arguments,
    cpu=lazily("cpu.retrieve.launch"),
    cuda=lazily("gpu.retrieve.launch"),
    fake=lambda queries, filters, survivors, k, **_: (
        queries.new_empty(queries.shape[0], k),
        filters.new_empty(queries.shape[0], k),
        torch.empty_like(survivors),
    ),
)
