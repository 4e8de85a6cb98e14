"""The runner: runs a shard's model on batches, with what only a host can do between its stages.

Letters: B requests, T tasks, D dimensions, N slots found by a task, K candidates, U programs, L instructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from silverray.shard.filter.expression import Expression
from silverray.shard.model.ranking import PLACES, Ranked
from silverray.shard.model.search import Answers, Search
from silverray.shard.model.shard_model import ShardModel
from silverray.shard.model.stage_times import Stage, StageTimes
from silverray.shard.value.valuer import FormulaInputs, Valuer


class Programs(NamedTuple):
    """The filters of B requests.

    Attributes:
        programs: `[U, L]` int32 plane programs.
        filters: `[B]` int64, the program of each request.
        checks: for each program what must be verified on stored values; None where it is exact.
    """

    programs: Tensor
    filters: Tensor
    checks: Sequence[Expression | None]


class Best(NamedTuple):
    """The best items of a batch, and how they were found.

    Attributes:
        slots: `[B, k]` int64; -1 where there are no more.
        scores: `[B, k]` float32; -inf where there are no more.
        found: what the search found for each task of each request, `[B * T, ...]`.
        ranked: what the ranking stage made of it; None where there is none.
        times: of the stages.
    """

    slots: Tensor
    scores: Tensor
    found: Answers
    ranked: Ranked | None
    times: StageTimes

    @property
    def stages(self) -> list[Stage]:
        """The stages that the batch went through."""
        return self.times.stages


class Scored(NamedTuple):
    """Items with their scores, whether they are good or not.

    Attributes:
        predictions: `[B, K, T]` float32.
        values: `[B, K]` float32.
    """

    predictions: Tensor
    values: Tensor


class ShardRunner:
    """Runs a model as its `forward` does, for any filters and batches of any size.

    Filters that need it are verified, what lacked room on a GPU is searched again, formulas get what the requests say,
    and a batch is ranked a part at a time.

    Args:
        model: what to run.
        search: finds candidates with the model's retrieval.
        valuer: gives each request its formula.
    """

    def __init__(self, model: ShardModel, search: Search, valuer: Valuer) -> None:
        self.model = model
        self.search = search
        self._valuer = valuer

    def best(
        self,
        queries: Tensor,
        filters: Programs,
        ks: Sequence[int],
        n_probe: int | None,
        refine_all: bool,
        asked: Sequence[FormulaInputs],
        quotas: Sequence[int],
    ) -> Best:
        """Find the best items of each request.

        Args:
            queries: `[B, T, D]` float32.
            filters: of the requests.
            ks: number of items wanted by each; all find the same number of candidates.
            n_probe: clusters to visit; None lets the planner choose.
            refine_all: score every visited item exactly.
            asked: what each request says of its values.
            quotas: as in `ShardModel.forward`.
        """
        model, times = self.model, StageTimes()
        kept = [model.kept(max(ks), refine_all)] * (len(ks) * model.tasks) if model.ranks else ks
        programs, of_requests, checks = filters
        found = self.search(
            queries.flatten(0, 1), programs, model.of_tasks(of_requests), checks, kept, n_probe, refine_all
        )
        if not model.ranks:
            times("retrieve", found.slots)
            return Best(found.slots, found.scores, found, None, times)
        slots, scores = (part.view(*queries.shape[:2], part.shape[1]) for part in (found.slots, found.scores))
        times("retrieve", slots)
        most = slots[0].numel()  # a quota may ask for all candidates of a request
        ranked = self.rank(queries, slots, scores, asked, ks, [min(quota, most) for quota in quotas], times)
        return Best(ranked.slots, ranked.scores, found, ranked, times)

    def rank(
        self,
        queries: Tensor,
        slots: Tensor,
        scores: Tensor,
        asked: Sequence[FormulaInputs],
        ks: Sequence[int],
        quotas: Sequence[int],
        times: StageTimes,
    ) -> Ranked:
        """Rank what the tasks of a batch have found, a part of the batch at a time; see `ShardModel.rank`."""
        wanted = torch.tensor(ks, device=queries.device)
        parts = []
        for rows in torch.split(torch.arange(len(queries)), max(1, PLACES // max(1, slots[0].numel()))):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            valuations = self._valuer.valuations(asked[part], queries.device)
            times.spent("value")
            parts.append(
                self.model.rank(
                    queries[part], slots[part], scores[part], valuations, wanted[part], max(ks), quotas, times
                )
            )
        return Ranked(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def score(self, queries: Tensor, slots: Tensor, asked: Sequence[FormulaInputs]) -> Scored:
        """Score given items, `[B, K]` slots of 0 or more."""
        predictions = self.model.scoring(queries, slots)
        valuations = self._valuer.valuations(asked, queries.device)
        return Scored(predictions, self.model.formulas(predictions, slots, valuations))
