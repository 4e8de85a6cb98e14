"""The retrieval model: probe, filter, scan, verify, refine and select, tensors in and tensors out.

Letters: Q queries, D dimensions, C clusters, K candidates, U programs, L instructions, W words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from silverray.kernels.bits import pack_bits, range_bits, set_bits
from silverray.kernels.centroids import probed_scores
from silverray.kernels.programs import Opcode, evaluate_programs, instruction
from silverray.kernels.refine import refine
from silverray.kernels.retrieve import retrieve
from silverray.kernels.scan import exact_scan, scan
from silverray.kernels.survivors import score_survivors
from silverray.shard.filter.expression import Expression
from silverray.shard.filter.verify import matches
from silverray.shard.index.lists import Lists
from silverray.shard.index.planner import Plan, Planner, coarse_keep
from silverray.shard.index.recall import RecallCurve

MAX_BITS = 1 << 24
"""Most slots, of all queries together, that are listed at a time to be verified."""

MAX_WORDS = 1 << 22
"""Most words of filter bits that are held at a time (32 MiB)."""


class Found(NamedTuple):
    """The best slots of each query.

    Attributes:
        slots: `[Q, k]` int64, by (score desc, key asc); -1 where there are no more.
        scores: `[Q, k]` float32; -inf where there are no more.
        plan: what was visited.
        widened: `[Q]` bool; false matches of hashed terms left too few, so everything that passes was scored.
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
        filters: Tensor,
        checks: Sequence[Expression | None],
        ks: Sequence[int],
        n_probe: int | None = None,
        refine_all: bool = False,
    ) -> Found:
        """Find the k best items of each query.

        Args:
            queries: `[Q, D]` float32.
            programs: `[U, L]` int32 plane programs.
            filters: `[Q]` int64, the program of each query.
            checks: for each program what must be verified on stored values; None where it is exact.
            ks: number of items wanted by each query; all within one step of `coarse_keep`. What a query visits
                depends on its own number alone.
            n_probe: clusters to visit; None lets the planner choose, and then an answer is short only when fewer
                than k items match.
            refine_all: score every visited item exactly, rather than the best by coarse score.

        Returns:
            The best slots; k is the largest of `ks`.
        """
        k = max(ks)
        wanted = torch.tensor(ks, device=queries.device)
        plan = self.planner(programs, filters, wanted, n_probe)
        batch = _Batch(queries, programs, filters, checks, wanted, k)
        survivors = 0 if n_probe is not None else int(plan.survivors.sum())
        if refine_all:
            probes = self.planner.probes(plan, queries, programs, filters)
            return Found(*self._score_all(batch, probes), plan, torch.zeros_like(plan.survivors))
        if survivors == queries.shape[0]:
            return Found(*self._score_survivors(batch), plan, torch.zeros_like(plan.survivors))
        if not survivors:
            slots, scores, widened = self._search(batch, plan, widen=n_probe is None)
            return Found(slots, scores, plan, widened)
        slots, scores = filters.new_empty(len(queries), k), queries.new_empty(len(queries), k)
        widened = torch.zeros_like(plan.survivors)
        few, many = torch.nonzero(plan.survivors)[:, 0], torch.nonzero(~plan.survivors)[:, 0]
        slots[few], scores[few] = self._score_survivors(batch.take(few))
        slots[many], scores[many], widened[many] = self._search(batch.take(many), plan.take(many), widen=True)
        return Found(slots, scores, plan, widened)

    def _search(self, batch: _Batch, plan: Plan, widen: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Slots and scores `[Q, k]` of what the plan finds, and whether all was scored after all `[Q]`."""
        lists = self.lists
        if all(check is None for check in batch.checks):
            scores, slots = retrieve(
                lists.codes, lists.scales, lists.vectors, lists.keys, lists.offsets, lists.sizes, lists.planes,
                batch.programs, batch.filters, batch.queries, lists.centroids, lists.centroid_codes,
                lists.centroid_scales, plan.least, plan.visit, plan.passing, coarse_keep(batch.k), batch.k,
            )  # fmt: skip
            return slots, scores, torch.zeros_like(plan.survivors)
        return self._scan(batch, self.planner.probes(plan, batch.queries, batch.programs, batch.filters), widen)

    def _score_survivors(self, batch: _Batch) -> tuple[Tensor, Tensor]:
        """Slots and scores `[Q, k]` of the best among all that match; the slots are listed once for each filter."""
        lists = self.lists
        step = max(1, MAX_WORDS // max(1, lists.planes.shape[1]))
        if len(batch.programs) > step:
            every = torch.arange(len(batch.queries), device=batch.queries.device)
            parts = [self._score_survivors(batch.take(rows)) for rows in torch.split(every, step)]
            return torch.cat([slots for slots, _ in parts]), torch.cat([scores for _, scores in parts])
        bits = evaluate_programs(lists.planes, batch.programs)
        for row, check in enumerate(batch.checks):
            if check is not None:
                slots = set_bits(bits[row : row + 1]).slots
                good = slots[matches(check, lists.columns, lists.planes, slots)]
                bits[row] = pack_bits(torch.zeros_like(good), good, 1, bits.shape[1])[0]
        best = score_survivors(lists.vectors, lists.keys, bits, batch.filters, batch.queries, batch.k)
        return best.places, best.scores

    def _scan(self, batch: _Batch, probes: Tensor, widen: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Slots and scores `[Q, k]` of what verification leaves, and whether all was scored after all `[Q]`."""
        lists = self.lists
        coarse = scan(
            lists.codes, lists.scales, lists.keys, lists.offsets, lists.planes, batch.programs, batch.filters,
            batch.queries, probes, probed_scores(lists.centroids, batch.queries, probes), coarse_keep(batch.k),
        )  # fmt: skip
        candidates = self._verified(batch, coarse.places)
        scores, slots = refine(lists.vectors, lists.keys, batch.queries, candidates, batch.k)
        # A scan keeps few candidates; should verification refuse most of them, all must be looked at after all.
        partial = (coarse.places >= 0).all(dim=1)
        if widen:
            partial |= (probes >= 0).sum(1) < len(lists.centroids)
        widened = partial & ((candidates >= 0).sum(1) < batch.wanted)
        (rows,) = torch.nonzero(widened, as_tuple=True)
        if len(rows):
            everywhere = torch.arange(len(lists.centroids), device=probes.device).expand(len(rows), -1)
            within = everywhere if widen else probes[rows]
            slots[rows], scores[rows] = self._score_all(batch.take(rows), within)
        return slots, scores, widened

    def _verified(self, batch: _Batch, candidates: Tensor) -> Tensor:
        """Candidates `[Q, K]` with -1 for those that only seemed to match."""
        result = candidates.clone()
        for program, check in enumerate(batch.checks):
            if check is not None:
                rows, columns = torch.nonzero((batch.filters == program)[:, None] & (candidates >= 0), as_tuple=True)
                good = matches(check, self.lists.columns, self.lists.planes, candidates[rows, columns])
                result[rows[~good], columns[~good]] = -1
        return result

    def _score_all(self, batch: _Batch, probes: Tensor) -> tuple[Tensor, Tensor]:
        """Slots and scores `[Q, k]` of the best among everything that matches in the probed clusters."""
        lists = self.lists
        if all(check is None for check in batch.checks):
            best = exact_scan(
                lists.vectors, lists.keys, lists.offsets, lists.planes, batch.programs, batch.filters, batch.queries,
                probes, batch.k,
            )  # fmt: skip
            return best.places, best.scores
        parts, every = [], torch.arange(len(probes), device=probes.device)
        for rows in torch.split(every, max(1, MAX_BITS // max(1, len(lists)))):
            some = batch.take(rows)
            bits = self._matching_bits(some, probes[rows])
            load = [[instruction(Opcode.LOAD, row)] for row in range(len(bits))]
            programs = torch.tensor(load, dtype=torch.int32, device=bits.device)
            filters = torch.arange(len(bits), device=bits.device)
            parts.append(
                exact_scan(
                    lists.vectors,
                    lists.keys,
                    lists.offsets,
                    bits,
                    programs,
                    filters,
                    some.queries,
                    probes[rows],
                    batch.k,
                )
            )
        return torch.cat([part.places for part in parts]), torch.cat([part.scores for part in parts])

    def _matching_bits(self, batch: _Batch, probes: Tensor) -> Tensor:
        """Bits `[Q, W]` of the slots in the probed clusters that match, verified."""
        lists = self.lists
        bits = evaluate_programs(lists.planes, batch.programs)[batch.filters]
        chosen = torch.zeros(len(probes), len(lists.centroids) + 1, dtype=torch.bool, device=probes.device)
        chosen.scatter_(1, torch.where(probes >= 0, probes, len(lists.centroids)), True)
        listed = set_bits(bits & range_bits(chosen[:, :-1], lists.offsets, bits.shape[1]))
        good = torch.ones_like(listed.slots, dtype=torch.bool)
        for program, check in enumerate(batch.checks):
            if check is not None:
                mine = batch.filters[listed.rows] == program
                good[mine] = matches(check, lists.columns, lists.planes, listed.slots[mine])
        return pack_bits(listed.rows[good], listed.slots[good], *bits.shape)


class _Batch(NamedTuple):
    queries: Tensor
    programs: Tensor
    filters: Tensor
    checks: Sequence[Expression | None]
    wanted: Tensor
    k: int

    def take(self, rows: Tensor) -> _Batch:
        """Some queries, and the programs that they use."""
        used, filters = torch.unique(self.filters[rows], return_inverse=True)
        checks = [self.checks[program] for program in used.tolist()]
        return _Batch(self.queries[rows], self.programs[used], filters, checks, self.wanted[rows], self.k)
