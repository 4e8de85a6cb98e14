"""The ranker: runs the ranking stage on batches, a part at a time, and says what each step did.

Letters: B requests, T tasks, D dimensions, N slots found by a task, K candidates, k items of an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import NamedTuple

import torch
from torch import Tensor

from silverray.kernels.union import United, unite
from silverray.shard.model.ranking import Ranked, Ranking
from silverray.shard.model.scorers import DotProduct, Scorer
from silverray.shard.value.valuer import Asked, Valuer

PLACES = 1 << 18
"""Most candidates that are ranked together; this bounds the memory that they need."""
SCORED = 1 << 12
"""Most pairs of candidate and task that a thread of a CPU scores at a time: their numbers then stay in its cache."""


class Stage(NamedTuple):
    """What one step did for a batch.

    Attributes:
        name: of the step.
        seconds: that it took.
        left: `[B]` int64 candidates that it left to each request; places of all tasks before they are united.
    """

    name: str
    seconds: float
    left: Tensor


class Judged(NamedTuple):
    """What is thought of items, whether they are good or not.

    Attributes:
        predictions: `[B, K, T]` float32.
        values: `[B, K]` float32.
    """

    predictions: Tensor
    values: Tensor


class Ranker:
    """Ranks candidates.

    Args:
        ranking: the stage.
        valuer: gives each request its formula.
    """

    def __init__(self, ranking: Ranking, valuer: Valuer) -> None:
        self.ranking = ranking
        self._valuer = valuer

    def rank(
        self,
        users: Tensor,
        slots: Tensor,
        scores: Tensor,
        asked: Sequence[Asked],
        ks: Sequence[int],
        quotas: Sequence[int] = (),
    ) -> tuple[Ranked, list[Stage]]:
        """Rank what the tasks of a batch have found.

        Args:
            users: `[B, T, D]` float32.
            slots: `[B, T, N]` int64, each at most once for a task; -1 where there are no more.
            scores: `[B, T, N]` float32 of them.
            asked: what each request says of its values.
            ks: number of items wanted by each request.
            quotas: as in `Ranking.forward`.

        Returns:
            The best items, and the steps that led to them. On a GPU a step's time is that of its launches.
        """
        wanted = torch.tensor(ks, device=users.device)
        rows = torch.split(torch.arange(len(users)), max(1, PLACES // max(1, slots[0].numel())))
        parts = [slice(int(some[0]), int(some[-1]) + 1) for some in rows]
        ranked, stages = zip(
            *(
                self._rank(users[part], slots[part], scores[part], asked[part], wanted[part], max(ks), quotas)
                for part in parts
            ),
            strict=True,
        )
        joined = Ranked(*(torch.cat(column) for column in zip(*ranked, strict=True)))
        return joined, [_joined(column) for column in zip(*stages, strict=True)]

    def judge(self, users: Tensor, slots: Tensor, asked: Sequence[Asked]) -> Judged:
        """Predict and value given items, `[B, K]` slots of 0 or more."""
        predictions = self._predict(users, slots)
        return Judged(predictions, self.ranking.value(predictions, slots, self._valuer.valuations(asked, users.device)))

    def _rank(
        self,
        users: Tensor,
        slots: Tensor,
        scores: Tensor,
        asked: Sequence[Asked],
        wanted: Tensor,
        k: int,
        quotas: Sequence[int],
    ) -> tuple[Ranked, list[Stage]]:
        """As `Ranking.forward`, step by step."""
        times = [perf_counter()]
        candidates = unite(slots, scores)
        left = (candidates.slots >= 0).sum(dim=1)
        if users.device.type == "cpu" or not len(self.ranking.lists):  # a GPU would be waited for
            most = int(left.amax())
            candidates = United(candidates.slots[:, :most], candidates.found[:, :most])
        times.append(perf_counter())
        predictions = self._predict(users, candidates.slots)
        times.append(perf_counter())
        values = self.ranking.value(predictions, candidates.slots, self._valuer.valuations(asked, users.device))
        times.append(perf_counter())
        ranked = self.ranking.select(candidates, predictions, values, wanted, k, quotas)
        times.append(perf_counter())
        names = ("unite", "score", "value", "select")
        lefts = (left, left, left, (ranked.slots >= 0).sum(dim=1))
        return ranked, [
            Stage(name, end - start, its) for name, start, end, its in zip(names, times, times[1:], lefts, strict=False)
        ]

    def _predict(self, users: Tensor, slots: Tensor) -> Tensor:
        """Predictions `[B, K, T]`, of so many candidates at a time as are scored together."""
        together = _scored_together(users, self.ranking.scorer)
        if slots.numel() <= together:
            return self.ranking.predict(users, slots)
        columns = max(1, min(together, slots.shape[1]))
        rows = max(1, together // columns)
        return torch.cat(
            [
                torch.cat([self.ranking.predict(some, part) for part in torch.split(its, columns, dim=1)], dim=1)
                for some, its in zip(torch.split(users, rows), torch.split(slots, rows), strict=True)
            ]
        )


def _scored_together(users: Tensor, scorer: Scorer) -> int:
    """How many candidates of users `[B, T, D]` are scored at a time."""
    if users.device.type != "cpu" or isinstance(scorer, DotProduct):  # which copies nothing
        return PLACES
    return max(1, SCORED * torch.get_num_threads() // users.shape[1])


def _joined(parts: Sequence[Stage]) -> Stage:
    """One step over all parts of a batch."""
    return Stage(parts[0].name, sum(part.seconds for part in parts), torch.cat([part.left for part in parts]))
