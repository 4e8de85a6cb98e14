"""The model of a shard: retrieve, score, value and select, tensors in and tensors out.

Letters: B requests, T tasks, N slots found by a task, K = T N candidates, D dimensions, U programs, L instructions, k
    items of an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from silverray.kernels.union import United, unite
from silverray.shard.index.ladder import candidates_for
from silverray.shard.index.planner import Plan
from silverray.shard.model.item_features import ItemFeatures
from silverray.shard.model.ranking import Formulas, Ranked, Scoring, select
from silverray.shard.model.retrieval import Found, RetrievalModel
from silverray.shard.model.scorers import DotProduct, Scorer
from silverray.shard.model.stage_times import Hook, ignore
from silverray.shard.value.valuer import Valuation
from silverray.shard.value.variants import ValueModels

MEAN = (Valuation(None, {}),)
"""Values every candidate of every request by the mean of its predictions."""


class Result(NamedTuple):
    """The best items of each request.

    Attributes:
        slots: `[B, k]` int64, by (score desc, key asc); -1 where there are no more.
        scores: `[B, k]` float32; -inf where there are no more.
        keys: `[B, k]` int64; -1 where there are no more.
        predictions: `[B, k, T]` float32; undefined where there are no more.
        found: `[B, k, T]` float32, the score with which each task found the item; -inf where it did not.
        plan: what was visited for each task of each request, `[B * T]`.
        overflow: `[B]` bool; more slots passed than a GPU had room for, so items may lack.
    """

    slots: Tensor
    scores: Tensor
    keys: Tensor
    predictions: Tensor
    found: Tensor
    plan: Plan
    overflow: Tensor


class ShardModel(nn.Module):
    """All that a shard computes for a request, for filters whose programs are exact:

    1. probe: the best clusters of each task's vector
    2. filter: each request's program on the words of those clusters, or on all words where few items pass
    3. scan: int8 scores of what passes, of which the best are kept
    4. refine: exact scores of these from the item cache
    5. merge tasks: the items that any task has found, each once
    6. score: a prediction of each task for each item
    7. value: one number from the predictions, by the request's formula
    8. select: the best k by (value desc, key asc)

    It compiles with `torch.compile(fullgraph=True)` and exports with `torch.export`. A served shard runs the same
    modules, with what only a host can do between them: the retrieval is verified (`Search`) and replayed from CUDA
    graphs, and `rank` runs for so many requests at a time that memory stays bounded (`ShardRunner`).

    Args:
        retrieval: finds candidates by each task's vector.
        tasks: T.
        scorer: a pointwise scorer of candidates.
        features: what it reads of the items' fields.
        formulas: value candidates; None takes the mean over the tasks.

    Attributes:
        ranks: whether candidates are ranked at all. With one task, its inner product and no formula that would change
            nothing, so that what is found stands by its exact scores.

    Raises:
        ValueError: the scorer is not pointwise.
    """

    def __init__(
        self,
        retrieval: RetrievalModel,
        tasks: int,
        scorer: Scorer,
        features: ItemFeatures,
        formulas: ValueModels | None = None,
    ) -> None:
        super().__init__()
        self.lists = retrieval.lists
        self.tasks = tasks
        self.ranks = tasks > 1 or not isinstance(scorer, DotProduct) or formulas is not None
        self.retrieval = retrieval
        self.scoring = Scoring(self.lists, scorer, features)
        self.formulas = Formulas(self.lists, formulas)

    def forward(
        self,
        queries: Tensor,
        programs: Tensor,
        filters: Tensor,
        wanted: Tensor,
        k: int,
        n_probe: int | None = None,
        valuations: Sequence[Valuation] = MEAN,
        quotas: Sequence[int] = (),
    ) -> Result:
        """Find the k best items of each request.

        Args:
            queries: `[B, T, D]` float32, what the user tower makes of a user: one vector for each task.
            programs: `[U, L]` int32 plane programs.
            filters: `[B]` int64, the program of each request.
            wanted: `[B]` int64 number of items wanted by each request.
            k: the largest of them, all within one step of `coarse_keep`.
            n_probe: clusters to visit for each task; None lets the planner choose.
            valuations: the formulas of all requests, each request in one.
            quotas: for each task how many of its best predictions are wanted as well; each request then gets
                k + sum(quotas) places. Empty for none.
        """
        batch, tasks, dimension = queries.shape
        vectors, each, kept = queries.reshape(-1, dimension), self.of_tasks(filters), self.kept(k)
        # 1 to 4, for each task by itself
        each_wanted = torch.full_like(each, kept) if self.ranks else wanted
        found = self.retrieval(vectors, programs, each, each_wanted, kept, n_probe)
        slots, scores = found.slots.view(batch, tasks, kept), found.scores.view(batch, tasks, kept)
        # 5 to 8
        best = self.rank(queries, slots, scores, valuations, wanted, k, quotas) if self.ranks else _as_found(found)
        keys = torch.where(best.slots >= 0, self.lists.keys[best.slots.clamp(min=0)], -1)
        overflow = found.overflow.view(batch, tasks).any(dim=1)
        return Result(best.slots, best.scores, keys, best.predictions, best.found, found.plan, overflow)

    def rank(
        self,
        queries: Tensor,
        slots: Tensor,
        scores: Tensor,
        valuations: Sequence[Valuation],
        wanted: Tensor,
        k: int,
        quotas: Sequence[int] = (),
        done: Hook = ignore,
    ) -> Ranked:
        """Rank what the tasks have found.

        Args:
            queries: `[B, T, D]` float32.
            slots: `[B, T, N]` int64, each at most once for a task; -1 where there are no more.
            scores: `[B, T, N]` float32 of them.
            valuations: as for `forward`, like the next three.
            wanted: `[B]` int64.
            k: the largest of them.
            quotas: of the tasks.
            done: told the end of each stage.
        """
        candidates = self._without_gaps(unite(slots, scores))
        done("unite", candidates.slots)
        predictions = self.scoring(queries, candidates.slots)
        done("score", candidates.slots)
        values = self.formulas(predictions, candidates.slots, valuations)
        done("value", candidates.slots)
        best = select(self.lists.keys, candidates, predictions, values, wanted, k, quotas)
        done("select", best.slots)
        return best

    def kept(self, k: int, refine_all: bool = False) -> int:
        """How many items of each task are found for k of an answer."""
        return candidates_for(k, refine_all) if self.ranks else k

    def of_tasks(self, filters: Tensor) -> Tensor:
        """For requests `[B]` what stands for each of their tasks, `[B * T]`."""
        return filters if self.tasks == 1 else filters.repeat_interleave(self.tasks)

    def _without_gaps(self, candidates: United) -> United:
        """Without the places that no request of the batch has filled; to know them, a GPU would be waited for."""
        if torch.compiler.is_compiling() or (len(self.lists) and candidates.slots.device.type != "cpu"):
            return candidates
        most = int((candidates.slots >= 0).sum(dim=1).amax())
        return United(candidates.slots[:, :most], candidates.found[:, :most])


def _as_found(found: Found) -> Ranked:
    """What one task has found, as it is."""
    scores = found.scores[:, :, None]
    return Ranked(found.slots, found.scores, scores, scores)
