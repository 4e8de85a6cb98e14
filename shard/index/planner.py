"""Plans: which clusters each query visits, and whether it scores all that passes its filter.

Letters: B queries, D dimensions, C clusters, P probes, W words.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from silverray.kernels.bits import count_ranges
from silverray.kernels.topk import top_k
from silverray.shard.index.lists import Lists
from silverray.shard.index.recall import RecallCurve

SURVIVORS = 20_000
"""Up to so many passing items are all scored exactly: recall 1 where probing would miss most of them."""
K_STEPS = (64, 256, 1_000, 2_500, 10_000)


def coarse_keep(k: int) -> int:
    """How many candidates a scan keeps for the k best: 4 times the next step of k, 256 to 40,000.

    Steps, so that a query's answer does not depend on the batch that it shares.
    """
    return max(256, 4 * next(step for step in K_STEPS if k <= step))


class Plan(NamedTuple):
    """What each query visits.

    Attributes:
        survivors: `[B]` bool; score everything that passes, in all clusters.
        probes: `[B, P]` int64 clusters, best first; -1 is none.
        probe_scores: `[B, P]` float32 `q·centroid`.
        passing: `[B, C]` int64 slots that pass the filter, by cluster.
    """

    survivors: Tensor
    probes: Tensor
    probe_scores: Tensor
    passing: Tensor

    def clusters(self) -> Tensor:
        """The visited clusters as `[B, C]` bool."""
        chosen = torch.zeros(len(self.probes), self.passing.shape[1] + 1, dtype=torch.bool, device=self.probes.device)
        chosen.scatter_(1, torch.where(self.probes >= 0, self.probes, self.passing.shape[1]), True)
        return chosen[:, :-1] | self.survivors[:, None]


class Planner(nn.Module):
    """Chooses clusters by centroid score, as many as the filter's selectivity asks for.

    Args:
        lists: the loaded items.
        curve: how much of the catalog must be visited.
    """

    def __init__(self, lists: Lists, curve: RecallCurve) -> None:
        super().__init__()
        self.lists = lists
        self.curve = curve

    def forward(self, queries: Tensor, bits: Tensor, ks: Tensor, n_probe: int | None) -> Plan:
        """Plan a batch.

        Args:
            queries: `[B, D]` float32.
            bits: `[B, W]` int64 slots that pass each query's filter.
            ks: `[B]` int64 number of items wanted by each query.
            n_probe: visit exactly so many clusters (all of them where there are fewer); None chooses.

        Returns:
            The plan of each query. With `n_probe` None it visits at least k passing slots, or all there are.
        """
        lists = self.lists
        clusters = torch.arange(len(lists.centroids), device=queries.device)
        found = top_k(queries @ lists.centroids.T, clusters, min(n_probe or len(clusters), len(clusters)))
        passing = count_ranges(bits, lists.offsets)
        if n_probe is not None:
            return Plan(
                torch.zeros(len(queries), dtype=torch.bool, device=bits.device),
                found.places,
                found.scores,
                passing,
            )
        total = passing.sum(1)
        survivors = total <= SURVIVORS
        needed = torch.where(survivors, 0, self._probes_needed(found.places, passing, ks))
        width = int(needed.max()) if len(needed) else 0
        unused = torch.arange(width, device=needed.device) >= needed[:, None]
        probes = found.places[:, :width].masked_fill(unused, -1)
        return Plan(survivors, probes, found.scores[:, :width], passing)

    def _probes_needed(self, order: Tensor, passing: Tensor, ks: Tensor) -> Tensor:
        """Fewest probes that visit enough of the catalog *and* enough of what passes.

        The sizes are those of the whole snapshot, so that an unfiltered query visits the same clusters on any number
        of shards; counting what passes makes up for filters that depend on the vectors.
        """
        total = passing.sum(1, keepdim=True).double()
        wanted = ks[:, None].double()
        depth = wanted * len(self.lists) / total.clamp(min=1)
        fraction = self.curve.fraction(depth.float()).double()
        visited = self.lists.sizes[order].cumsum(1)
        seen = passing.gather(1, order).cumsum(1)
        enough = (visited >= fraction * visited[:, -1:]) & (seen >= (fraction * total).maximum(wanted).minimum(total))
        return ((~enough).sum(1) + 1).clamp(max=order.shape[1])
