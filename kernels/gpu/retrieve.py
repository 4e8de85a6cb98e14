"""Probe, scan and refine on a GPU: every step is a launch, and none waits for the host.

What depends on the data is held in counters on the device, so that the launches and their memory are the same for
every batch of a size: they can be captured as a CUDA graph. The letters are those of `silverray.kernels.retrieve`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from silverray.kernels import centroids
from silverray.kernels.gpu.programs import count_lists
from silverray.kernels.gpu.refine import best_of
from silverray.kernels.gpu.scan import scan_lists
from silverray.kernels.gpu.scores import score_candidates
from silverray.kernels.gpu.select import select
from silverray.kernels.gpu.survivors import list_bits
from silverray.kernels.probes import clusters_needed
from silverray.kernels.retrieve import Arguments


def launch(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Run the kernels; see `silverray.kernels.retrieve.retrieve`."""
    its = Arguments(*arguments)
    bits = its.planes.new_empty(len(its.programs), its.planes.shape[1])
    probed, bases = _probe(its, bits)
    room = scan_lists(its.codes, its.scales, its.offsets, bits, its.filters, its.queries, probed, bases, its.room)
    _, candidates, counts = select(room.scores, room.slots, room.counts, its.keys, its.keep)
    if its.few:
        lists, numbers = list_bits(bits, len(its.codes), its.few, _of_programs(its, its.survivors))
        width = max(its.few, its.keep)
        candidates = torch.where(
            its.survivors[:, None],
            pad(lists[its.filters], (0, width - its.few)),
            pad(candidates, (0, width - its.keep)),
        )
        counts = torch.where(its.survivors, numbers[its.filters], counts)
    scores, slots = best_of(its.vectors, its.keys, its.queries, candidates, counts, its.k)
    return scores, slots, room.overflow


def _probe(its: Arguments, bits: Tensor) -> tuple[Tensor, Tensor]:
    """Choose clusters, and evaluate filters where they are needed, into `bits` `[U, W]`.

    Returns:
        `[Q, C]` int8, 1 where a query probes a cluster, and `[Q, C]` float32 scores of those centroids.
    """
    probing, clusters = ~its.survivors, len(its.sizes)
    # To count what passes, and to list it, a filter must be evaluated everywhere; else where its queries probe.
    whole = _of_programs(its, its.survivors | (its.passing > 0))[:, None].expand(-1, clusters)
    inside = count_lists(its.planes, its.programs, its.offsets, whole, bits)
    scores = centroids.reference(its.centroid_codes, its.centroid_scales, its.queries)
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices
    needed = clusters_needed(order, its.sizes, inside[its.filters], its.least, its.visit, its.passing) * probing
    chosen = (torch.arange(clusters, device=order.device) < needed[:, None]).to(torch.int8)
    probed = torch.zeros_like(chosen).scatter_(1, order, chosen)
    partial = torch.zeros(whole.shape, dtype=torch.int32, device=order.device)
    partial.index_add_(0, its.filters, probed.to(torch.int32))
    count_lists(its.planes, its.programs, its.offsets, partial * (whole == 0), bits)
    score_candidates(its.centroids, its.queries, order, needed, scores)
    return probed, torch.zeros_like(scores).scatter_(1, order, scores)


def _of_programs(its: Arguments, queries: Tensor) -> Tensor:
    """`[U]` int32, other than 0 where a program is that of any of some `queries` `[Q]` bool."""
    marked = torch.zeros(len(its.programs), dtype=torch.int32, device=queries.device)
    return marked.index_add_(0, its.filters, queries.to(torch.int32))
