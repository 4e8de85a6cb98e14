"""Searching with a retrieval model: filters that need verification, and answers that need a second look.

Letters: Q queries, D dimensions, C clusters, K candidates, U programs, L instructions, W words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from silverray.kernels.bits import pack_bits, range_bits, set_bits
from silverray.kernels.centroids import probed_scores
from silverray.kernels.programs import Opcode, evaluate_programs, instruction
from silverray.kernels.refine import refine
from silverray.kernels.scan import exact_scan, scan
from silverray.kernels.survivors import score_survivors
from silverray.shard.filter.expression import Expression
from silverray.shard.filter.verification import matches
from silverray.shard.index.ladder import coarse_keep
from silverray.shard.index.planner import Plan
from silverray.shard.model.retrieval import Found, RetrievalModel

MAX_BITS = 1 << 24
"""Most slots, of all queries together, that are listed at a time to be verified."""
MAX_ROOM = 1 << 27
"""Most scores, of all queries together, that a GPU is given room for (1 GiB with their slots)."""
MORE_ROOM = 8
"""By how much the room grows when it was too small."""


class Answers(NamedTuple):
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


class Search:
    """Runs a model on batches of requests, and verifies what programs cannot decide.

    Args:
        model: what finds.
        run: called like the model; another than the model itself where its launches are captured.
    """

    def __init__(self, model: RetrievalModel, run: Callable[..., Found] | None = None) -> None:
        self.model = model
        self._run = run or model

    def __call__(
        self,
        queries: Tensor,
        programs: Tensor,
        filters: Tensor,
        checks: Sequence[Expression | None],
        ks: Sequence[int],
        n_probe: int | None = None,
        refine_all: bool = False,
    ) -> Answers:
        """Find the k best items of each query.

        Args:
            queries: `[Q, D]` float32.
            programs: `[U, L]` int32 plane programs.
            filters: `[Q]` int64, the program of each query.
            checks: for each program what must be verified on stored values; None where it is exact.
            ks: number of items wanted by each query; all within one step of `coarse_keep`.
            n_probe: clusters to visit; None lets the planner choose.
            refine_all: score every visited item exactly, rather than the best by coarse score.

        Returns:
            The best slots; k is the largest of `ks`.
        """
        batch = _Batch(queries, programs, filters, checks, _numbers(ks, queries.device), max(ks))
        planner = self.model.planner
        if refine_all:
            plan = planner(programs, filters, batch.wanted, n_probe)
            probes = planner.probes(plan, queries, programs, filters)
            return Answers(*self._score_all(batch, probes), plan, torch.zeros_like(plan.survivors))
        if batch.exact:
            found = self._find(batch, n_probe)
            return Answers(found.slots, found.scores, found.plan, widened=found.overflow)  # there is none left
        return self._verify(batch, n_probe)

    def _find(self, batch: _Batch, n_probe: int | None) -> Found:
        """What the model finds, with more room for the queries for which more passes than was expected."""
        room, count = self.model.planner.room(batch.k, n_probe), len(batch.queries)
        if count * room > MAX_ROOM and count > 1:
            parts = torch.split(torch.arange(count, device=batch.queries.device), max(1, MAX_ROOM // room))
            return _joined([self._find(batch.take(rows), n_probe) for rows in parts])
        found = self._run(batch.queries, batch.programs, batch.filters, batch.wanted, batch.k, n_probe)
        while 0 < room < len(self.model.lists) and bool(found.overflow.any()):
            room = min(room * MORE_ROOM, len(self.model.lists))
            for rows in torch.split(torch.nonzero(found.overflow)[:, 0], max(1, MAX_ROOM // room)):
                some = batch.take(rows)
                again = self.model(some.queries, some.programs, some.filters, some.wanted, batch.k, n_probe, room)
                found.slots[rows], found.scores[rows] = again.slots, again.scores
                found.overflow[rows] = again.overflow
        return found

    def _verify(self, batch: _Batch, n_probe: int | None) -> Answers:
        """What is left when the programs that are not exact are verified."""
        planner = self.model.planner
        plan = planner(batch.programs, batch.filters, batch.wanted, n_probe)
        slots = batch.filters.new_empty(len(batch.queries), batch.k)
        scores, widened = batch.queries.new_empty(slots.shape), torch.zeros_like(plan.survivors)
        (few,), (many,) = torch.nonzero(plan.survivors, as_tuple=True), torch.nonzero(~plan.survivors, as_tuple=True)
        if len(few):
            slots[few], scores[few] = self._score_survivors(batch.take(few))
        if len(many):
            rest, its = batch.take(many), plan.take(many)
            probes = planner.probes(its, rest.queries, rest.programs, rest.filters)
            slots[many], scores[many], widened[many] = self._scan(rest, probes, widen=n_probe is None)
        return Answers(slots, scores, plan, widened)

    def _score_survivors(self, batch: _Batch) -> tuple[Tensor, Tensor]:
        """Slots and scores `[Q, k]` of the best among all that match; the slots are listed once for each filter."""
        lists = self.model.lists
        slots = batch.filters.new_empty(len(batch.queries), batch.k)
        scores = batch.queries.new_empty(slots.shape)
        for program, check in enumerate(batch.checks):
            bits = evaluate_programs(lists.planes, batch.programs[program : program + 1])
            if check is not None:
                listed = set_bits(bits).slots
                good = listed[matches(check, lists.columns, lists.planes, listed)]
                bits = pack_bits(torch.zeros_like(good), good, *bits.shape)
            (rows,) = torch.nonzero(batch.filters == program, as_tuple=True)
            some = batch.queries[rows]
            best = score_survivors(lists.vectors, lists.keys, bits, torch.zeros_like(rows), some, batch.k)
            slots[rows], scores[rows] = best.places, best.scores
        return slots, scores

    def _scan(self, batch: _Batch, probes: Tensor, widen: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Slots and scores `[Q, k]` of what verification leaves, and whether all was scored after all `[Q]`."""
        lists = self.model.lists
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
                good = matches(check, self.model.lists.columns, self.model.lists.planes, candidates[rows, columns])
                result[rows[~good], columns[~good]] = -1
        return result

    def _score_all(self, batch: _Batch, probes: Tensor) -> tuple[Tensor, Tensor]:
        """Slots and scores `[Q, k]` of the best among everything that matches in the probed clusters."""
        lists = self.model.lists
        if batch.exact:
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
        lists = self.model.lists
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


def _numbers(ks: Sequence[int], device: torch.device) -> Tensor:
    """`[Q]` int64; numbers that are all the same, which is the rule, need not be read one by one."""
    if ks.count(ks[0]) == len(ks):
        return torch.full((len(ks),), ks[0], dtype=torch.int64, device=device)
    return torch.tensor(ks, device=device)


class _Batch(NamedTuple):
    queries: Tensor
    programs: Tensor
    filters: Tensor
    checks: Sequence[Expression | None]
    wanted: Tensor
    k: int

    @property
    def exact(self) -> bool:
        """Whether no program needs verification."""
        return all(check is None for check in self.checks)

    def take(self, rows: Tensor) -> _Batch:
        """Some queries, and the programs that they use."""
        used, filters = torch.unique(self.filters[rows], return_inverse=True)
        checks = [self.checks[program] for program in used.tolist()]
        return _Batch(self.queries[rows], self.programs[used], filters, checks, self.wanted[rows], self.k)


def _joined(parts: Sequence[Found]) -> Found:
    """The answers of one part of a batch after another."""
    return Found(
        slots=torch.cat([part.slots for part in parts]),
        scores=torch.cat([part.scores for part in parts]),
        plan=Plan(*(torch.cat(tensors) for tensors in zip(*(part.plan for part in parts), strict=True))),
        overflow=torch.cat([part.overflow for part in parts]),
    )
