"""The retrieval model: plan, probe, filter, scan, refine and select, tensors in and tensors out.

Letters: Q queries, D dimensions, U programs, L instructions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from silverray.kernels.bound import Bound, Index, bind
from silverray.kernels.retrieve import Arguments, retrieve
from silverray.shard.index import planner
from silverray.shard.index.inverted_lists import InvertedLists
from silverray.shard.index.ladder import coarse_keep
from silverray.shard.index.planner import Plan, Planner
from silverray.shard.snapshot.recall_curve import RecallCurve


class Found(NamedTuple):
    """The best slots of each query.

    Attributes:
        slots: `[Q, k]` int64, by (score desc, key asc); -1 where there are no more.
        scores: `[Q, k]` float32; -inf where there are no more.
        plan: what was visited.
        overflow: `[Q]` bool; more slots passed than there was room for, so slots may lack.
    """

    slots: Tensor
    scores: Tensor
    plan: Plan
    overflow: Tensor


class RetrievalModel(nn.Module):
    """One shard's retrieval over its lists, for filters whose programs are exact.

    It compiles with `torch.compile(fullgraph=True)` and exports with `torch.export`, and on a GPU it waits nowhere for
    the host: what is launched depends on the shapes and on `k`, `n_probe` and `room` alone.

    Args:
        lists: the items.
        curve: how much of the catalog must be visited.
    """

    def __init__(self, lists: InvertedLists, curve: RecallCurve) -> None:
        super().__init__()
        self.lists = lists
        self.planner = Planner(lists, curve)
        self._bound = self._bind()

    def _bind(self) -> Bound | None:
        """What searches on a CPU, where tensors lie still while writes change what is in them; None on a GPU."""
        lists = self.lists
        if lists.keys.device.type != "cpu":
            return None
        index = Index(
            codes=lists.codes,
            scales=lists.scales,
            vectors=lists.vectors,
            keys=lists.keys,
            offsets=lists.offsets,
            sizes=lists.sizes,
            planes=lists.planes,
            centroids=lists.centroids,
            centroid_codes=lists.centroid_codes,
            centroid_scales=lists.centroid_scales,
            curve=self.planner.curve,
        )
        return bind(index, self.planner.items)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move the tensors, as all of PyTorch's methods that do so, and bind them where they are then."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._bound = self._bind()
        return self

    def forward(
        self,
        queries: Tensor,
        programs: Tensor,
        filters: Tensor,
        wanted: Tensor,
        k: int,
        n_probe: int | None = None,
        room: int | None = None,
    ) -> Found:
        """Find the k best items of each query.

        Args:
            queries: `[Q, D]` float32.
            programs: `[U, L]` int32 plane programs.
            filters: `[Q]` int64, the program of each query.
            wanted: `[Q]` int64 number of items wanted by each query; what it visits depends on that alone.
            k: the largest of them, all within one step of `coarse_keep`.
            n_probe: clusters to visit; None lets the planner choose, and then an answer is short only when fewer
                than k items match.
            room: slots that may pass for a query on a GPU; None takes what the planner expects.

        Returns:
            The best slots.
        """
        if self._bound is not None and not torch.compiler.is_compiling():
            probed = -1 if n_probe is None else n_probe
            best = self._bound(queries, programs, filters, wanted, probed, planner.SURVIVORS, coarse_keep(k), k)
            return Found(best.slots, best.scores, Plan(*best[2:]), torch.zeros_like(best.survivors))
        lists, plan = self.lists, self.planner(programs, filters, wanted, n_probe)
        found = retrieve(
            Arguments(
                codes=lists.codes,
                scales=lists.scales,
                vectors=lists.vectors,
                keys=lists.keys,
                offsets=lists.offsets,
                sizes=lists.sizes,
                planes=lists.planes,
                programs=programs,
                filters=filters,
                queries=queries,
                centroids=lists.centroids,
                centroid_codes=lists.centroid_codes,
                centroid_scales=lists.centroid_scales,
                survivors=plan.survivors,
                least=plan.least,
                visit=plan.visit,
                passing=plan.passing,
                few=min(planner.SURVIVORS, len(lists)) if n_probe is None else 0,
                keep=coarse_keep(k),
                k=k,
                room=self.planner.room(k, n_probe) if room is None else room,
            )
        )
        return Found(found.slots, found.scores, plan, found.overflow)
