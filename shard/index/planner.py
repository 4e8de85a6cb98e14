"""Plans: which clusters each query visits. Letters: Q queries, C clusters, P probes, U programs."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from silverray.kernels.centroids import score_centroids
from silverray.kernels.plans import plan_visits
from silverray.kernels.probes import choose_probes
from silverray.shard.index.inverted_lists import InvertedLists
from silverray.shard.index.ladder import K_STEPS
from silverray.shard.snapshot.recall_curve import RecallCurve

SURVIVORS = 20_000
"""Where no more items pass, all of them are scored exactly: probing would miss most of them."""


class Plan(NamedTuple):
    """What each query visits; see `silverray.kernels.probes.choose_probes`.

    Attributes:
        survivors: `[Q]` bool; few items pass, so all of them are scored exactly.
        least: `[Q]` int64 clusters, at least.
        visit: `[Q]` int64 items, at least.
        passing: `[Q]` int64 items that pass, at least.
    """

    survivors: Tensor
    least: Tensor
    visit: Tensor
    passing: Tensor

    def take(self, rows: Tensor) -> Plan:
        """The plans of some queries."""
        return Plan(*(part[rows] for part in self))


class Planner(nn.Module):
    """Chooses clusters by centroid score, as many as the filter's selectivity asks for.

    Args:
        lists: the loaded items.
        curve: how much of the catalog must be visited.

    Attributes:
        curve: its lines, see `silverray.kernels.plans`.
        items: of the whole snapshot.
    """

    curve: Tensor

    def __init__(self, lists: InvertedLists, curve: RecallCurve) -> None:
        super().__init__()
        self.lists = lists
        self._curve = curve
        self.register_buffer("curve", self.lines(lists.items))
        self.items = int(lists.sizes.sum())
        self._fraction = {step: curve.fraction(step) for step in K_STEPS}
        self._largest = lists.offsets.diff().sort(descending=True).values.cumsum(0).tolist()

    def lines(self, items: int) -> Tensor:
        """What `curve` must be for lists that hold so many items."""
        return self._curve.lines(items / len(self.lists) if items else 1.0)

    def forward(self, programs: Tensor, filters: Tensor, ks: Tensor, n_probe: int | None) -> Plan:
        """Plan a batch.

        Args:
            programs: `[U, L]` int32 plane programs.
            filters: `[Q]` int64, the program of each query.
            ks: `[Q]` int64 number of items wanted by each query.
            n_probe: visit exactly so many clusters (all of them where there are fewer); None chooses.

        Returns:
            The plan of each query. With `n_probe` None it visits at least k passing slots, or all there are.

        The sizes are those of the whole snapshot, so that an unfiltered query visits the same clusters on any number
        of shards; counting what passes makes up for filters that depend on the vectors.
        """
        lists = self.lists
        if n_probe is not None:
            none = torch.zeros_like(filters)
            return Plan(none.bool(), torch.full_like(filters, n_probe), none, none)
        survivors, (visit, passing) = plan_visits(
            lists.planes, programs, filters, ks, self.curve, len(lists), self.items, SURVIVORS
        )
        return Plan(survivors, torch.where(survivors, lists.centroids.shape[0], 1), visit, passing)

    def room(self, k: int, n_probe: int | None) -> int:
        """How many passing slots to expect in the clusters that a query visits; 0 on a CPU, which need not know.

        The more a filter passes, the more passing slots are visited: without one it is the curve's fraction of all.
        """
        if self.lists.keys.device.type == "cpu" or not self._largest:
            return 0
        if n_probe is not None:
            return int(self._largest[min(n_probe, len(self._largest)) - 1])
        step = next(step for step in K_STEPS if k <= step)
        expected = self._fraction[step] * len(self.lists) + self._largest[0]
        return min(len(self.lists), 1 << int(1.25 * expected).bit_length())

    def probes(self, plan: Plan, queries: Tensor, programs: Tensor, filters: Tensor) -> Tensor:
        """The clusters that a plan visits.

        Args:
            plan: of Q queries.
            queries: `[Q, D]` float32.
            programs: `[U, L]` int32.
            filters: `[Q]` int64.

        Returns:
            `[Q, P]` int64 in no particular order, then -1.
        """
        lists = self.lists
        scores = score_centroids(lists.centroid_codes, lists.centroid_scales, queries)
        return choose_probes(scores, lists.sizes, lists.offsets, lists.planes, programs, filters, *plan[1:])
