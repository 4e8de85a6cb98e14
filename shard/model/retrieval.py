"""The retrieval model: probe, filter, scan, verify, refine and select, tensors in and tensors out.

Letters: B queries, D dimensions, L instructions, W words, M pairs of query and slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from silverray.kernels.bits import SetBits, range_bits, set_bits
from silverray.kernels.codes import quantize_rows
from silverray.kernels.programs import evaluate_programs
from silverray.kernels.scan import scan
from silverray.kernels.scores import exact_scores
from silverray.kernels.topk import ragged_top_k
from silverray.shard.filter.expression import Expression
from silverray.shard.filter.verify import matches
from silverray.shard.index.lists import Lists
from silverray.shard.index.planner import Plan, Planner, coarse_keep
from silverray.shard.index.recall import RecallCurve

MAX_PAIRS = 1 << 22
"""Most pairs of query and slot that are listed at a time (64 MiB)."""


class Found(NamedTuple):
    """The best slots of each query.

    Attributes:
        slots: `[B, k]` int64, by (score desc, key asc); -1 where there are no more.
        scores: `[B, k]` float32; -inf where there are no more.
        plan: what was visited.
        widened: `[B]` bool; false matches of hashed terms left too few, so everything that passes was scored.
    """

    slots: Tensor
    scores: Tensor
    plan: Plan
    widened: Tensor


class RetrievalModel(nn.Module):
    """One shard's retrieval over its lists.

    Args:
        lists: the items.
        curve: how much of the catalog must be visited.
    """

    def __init__(self, lists: Lists, curve: RecallCurve) -> None:
        super().__init__()
        self.lists = lists
        self.planner = Planner(lists, curve)

    def forward(
        self,
        queries: Tensor,
        programs: Tensor,
        checks: Sequence[Expression | None],
        ks: Sequence[int],
        n_probe: int | None = None,
        refine_all: bool = False,
    ) -> Found:
        """Find the k best items of each query.

        Args:
            queries: `[B, D]` float32.
            programs: `[B, L]` int32 plane programs.
            checks: for each query what must be verified on stored values; None where its program is exact.
            ks: number of items wanted by each query; all within one step of `coarse_keep`. What a query visits
                depends on its own number alone.
            n_probe: clusters to visit; None lets the planner choose, and then an answer is short only when fewer
                than k items match.
            refine_all: score every visited item exactly, rather than the best by coarse score.

        Returns:
            The best slots; k is the largest of `ks`.
        """
        wanted, k = torch.tensor(ks, device=queries.device), max(ks)
        bits = evaluate_programs(self.lists.planes, programs)
        plan = self.planner(queries, bits, wanted, n_probe)
        batch = _Batch(queries, bits, checks, k)
        slots = torch.full((len(queries), k), -1, dtype=torch.int64, device=queries.device)
        scores = torch.full((len(queries), k), -torch.inf, device=queries.device)
        exhaustive = plan.survivors | refine_all
        visited = plan.clusters()
        for row in _rows(~exhaustive):
            slots[row], scores[row] = self._scan(batch, plan, row)
        # A scan keeps few candidates; should verification refuse most of them, all must be looked at after all.
        within = visited if n_probe is not None else torch.ones_like(visited)
        reach = torch.where(within, plan.passing, 0).sum(1)
        count = (slots >= 0).sum(1)
        widened = ~exhaustive & (count < wanted) & (count < reach)
        within = torch.where(widened[:, None], within, visited)
        for row in self._bounded_rows(exhaustive | widened, torch.where(within, plan.passing, 0).sum(1)):
            slots[row], scores[row] = self._score_all(batch, within, row)
        return Found(slots, scores, plan, widened)

    def _scan(self, batch: _Batch, plan: Plan, row: Tensor) -> tuple[Tensor, Tensor]:
        lists = self.lists
        coded = quantize_rows(batch.queries[row])
        best = scan(
            lists.codes, lists.scales, lists.keys, lists.offsets, batch.bits[row],
            coded.values, coded.scales, plan.probes[row], plan.probe_scores[row], coarse_keep(batch.k),
        )  # fmt: skip
        places, columns = torch.nonzero(best.places >= 0, as_tuple=True)
        return self._refine(batch, row, SetBits(places, best.places[places, columns]))

    def _score_all(self, batch: _Batch, within: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        bits, within = batch.bits[row], within[row]
        cut = ~within.all(dim=1)
        bits[cut] &= range_bits(within[cut], self.lists.offsets, bits.shape[1])
        return self._refine(batch, row, set_bits(bits))

    def _refine(self, batch: _Batch, row: Tensor, pairs: SetBits) -> tuple[Tensor, Tensor]:
        """Verify candidates, score them exactly and select the k best of each of the queries `row`."""
        pairs = self._verified(batch, row, pairs)
        scores = exact_scores(self.lists.vectors, batch.queries[row], pairs.rows, pairs.slots)
        best = ragged_top_k(scores, self.lists.keys[pairs.slots], pairs.rows, len(row), batch.k)
        if not len(pairs.slots):
            return best.places, best.scores
        return torch.where(best.places >= 0, pairs.slots[best.places.clamp(min=0)], -1), best.scores

    def _verified(self, batch: _Batch, row: Tensor, pairs: SetBits) -> SetBits:
        groups: dict[Expression, list[int]] = {}
        for place, query in enumerate(row.tolist()):
            check = batch.checks[query]
            if check is not None:
                groups.setdefault(check, []).append(place)
        if not groups:
            return pairs
        good = torch.ones_like(pairs.slots, dtype=torch.bool)
        for check, places in groups.items():
            mine = torch.isin(pairs.rows, pairs.rows.new_tensor(places))
            good[mine] = matches(check, self.lists.columns, self.lists.planes, pairs.slots[mine])
        return SetBits(pairs.rows[good], pairs.slots[good])

    def _bounded_rows(self, chosen: Tensor, counts: Tensor) -> list[Tensor]:
        """Split the chosen queries so that the pairs of each part stay bounded."""
        (rows,) = torch.nonzero(chosen, as_tuple=True)
        part = torch.div(counts[rows].cumsum(0) - 1, MAX_PAIRS, rounding_mode="floor")
        return [rows[part == number] for number in torch.unique(part)]


class _Batch(NamedTuple):
    queries: Tensor
    bits: Tensor
    checks: Sequence[Expression | None]
    k: int


def _rows(chosen: Tensor) -> list[Tensor]:
    (rows,) = torch.nonzero(chosen, as_tuple=True)
    return [rows] if len(rows) else []
