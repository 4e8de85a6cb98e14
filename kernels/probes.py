"""Probing: which clusters a query visits. Letters: Q queries, C clusters, P probes, R planes, W words, U programs."""

from __future__ import annotations

import torch
from torch import Tensor

from silverray.kernels.bits import count_ranges
from silverray.kernels.checks import check
from silverray.kernels.ops import define, lazily
from silverray.kernels.programs import reference as evaluate_reference
from silverray.kernels.topk import top_k


def choose_probes(
    scores: Tensor,
    sizes: Tensor,
    offsets: Tensor,
    planes: Tensor,
    programs: Tensor,
    filters: Tensor,
    least: Tensor,
    visit: Tensor,
    passing: Tensor,
) -> Tensor:
    """Choose for each query the fewest best clusters that are enough in three respects.

    They are enough when they are at least `least` clusters, hold at least `visit` items and hold at least `passing`
    slots that pass the query's filter. All clusters are chosen where less will not do, or `visit` asks for all items.

    Args:
        scores: `[Q, C]` float32 `q·centroid`; the best cluster has the largest, of equals the lowest number.
        sizes: `[C]` int64 items of each cluster, by which `visit` is measured.
        offsets: `[C + 1]` int64; cluster c holds slots `offsets[c]` to `offsets[c + 1]`, end excluded.
        planes: `[R, W]` int64.
        programs: `[U, L]` int32, as in `evaluate_programs`.
        filters: `[Q]` int64, the program of each query.
        least: `[Q]` int64.
        visit: `[Q]` int64.
        passing: `[Q]` int64.

    Returns:
        `[Q, P]` int64 clusters of each query in no particular order, then -1; P is the largest number of any query.

    Raises:
        ValueError: a wrong shape.

    Cost:
        Reads the scores once, and evaluates programs only on the clusters that it chooses.
    """
    check("scores", scores, torch.float32, None, sizes.shape[0])
    check_demands(scores.shape[0], sizes, offsets, least, visit, passing)
    check("planes", planes, torch.int64, None, None)
    check("programs", programs, torch.int32, None, None)
    check("filters", filters, torch.int64, len(scores))
    probes: Tensor = _choose_probes(scores, sizes, offsets, planes, programs, filters, least, visit, passing)
    return probes


def check_demands(count: int, sizes: Tensor, offsets: Tensor, least: Tensor, visit: Tensor, passing: Tensor) -> None:
    """Raise a `ValueError` unless these arguments of `choose_probes` fit each other and `count` queries."""
    check("sizes", sizes, torch.int64, None)
    check("offsets", offsets, torch.int64, sizes.shape[0] + 1)
    check("least", least, torch.int64, count)
    check("visit", visit, torch.int64, count)
    check("passing", passing, torch.int64, count)


def reference(
    scores: Tensor,
    sizes: Tensor,
    offsets: Tensor,
    planes: Tensor,
    programs: Tensor,
    filters: Tensor,
    least: Tensor,
    visit: Tensor,
    passing: Tensor,
) -> Tensor:
    """`choose_probes` in plain PyTorch: the specification."""
    clusters = scores.shape[1]
    order = top_k(scores, torch.arange(clusters, device=scores.device), clusters).places
    inside = count_ranges(evaluate_reference(planes, programs), offsets)[filters]
    needed = clusters_needed(order, sizes, inside, least, visit, passing)
    width = int(needed.max()) if len(needed) else 0
    unused = torch.arange(width, device=scores.device) >= needed[:, None]
    return order[:, :width].masked_fill(unused, -1)


def clusters_needed(
    order: Tensor, sizes: Tensor, inside: Tensor, least: Tensor, visit: Tensor, passing: Tensor
) -> Tensor:
    """How many of its best clusters each query needs, `[Q]` int64.

    `order` `[Q, C]` int64 are the clusters, best first, and `inside` `[Q, C]` int64 counts what passes in each; the
    others are those of `choose_probes`.
    """
    enough = torch.arange(1, order.shape[1] + 1, device=order.device) >= least[:, None]
    enough &= (sizes[order].cumsum(1) >= visit[:, None]) & (visit < sizes.sum())[:, None]
    enough &= inside.gather(1, order).cumsum(1) >= passing[:, None]
    return ((~enough).sum(1) + 1).clamp(max=order.shape[1])


_choose_probes = define(
    "choose_probes",
    reference,
    cpu=lazily("cpu.probes.launch"),
    fake=lambda scores, filters, **_: filters.new_empty(scores.shape[0], torch.library.get_ctx().new_dynamic_size()),
)
