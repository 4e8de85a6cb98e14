"""Brute force: exact scores of everything that matches, without index, codes or planes.

Where there is a ranking stage, it judges everything that matches. A search agrees with that as far as its candidates
reach: wholly where each task finds everything that matches (`refine: all` up to `MAX_K` items), and else it can only
lack items.

Letters: B queries, N items, D dimensions, T tasks, k items of an answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from silverray.kernels.scores import exact_scores
from silverray.kernels.topk import top_k
from silverray.kernels.union import United
from silverray.shard.api import SearchReply, TaskScores
from silverray.shard.engine.engine import Engine
from silverray.shard.filter.verification import matches
from silverray.shard.model.ranking import select
from silverray.shard.query import Query, QueryBatch
from silverray.shard.result_batch import ResultBatch, featured

QUERIES_AT_A_TIME = 16
"""Queries whose rough scores of all items are held together: 64 MB for a million items."""


class ExactEngine(Engine):
    """Answers by scoring every item that matches; `n_probe`, `refine` and `mode` change nothing."""

    @torch.inference_mode()
    def _search_group(self, batch: QueryBatch) -> ResultBatch:
        queries, rows = list(batch), list[SearchReply]()
        for start in range(0, len(queries), QUERIES_AT_A_TIME):
            rows += self._answer_some(queries[start : start + QUERIES_AT_A_TIME])
        return ResultBatch.of(rows, self.catalog.version)

    def _answer_some(self, queries: Sequence[Query]) -> list[SearchReply]:
        if self.model.ranks:
            return [self._ranked(query) for query in queries]
        vectors = self.model.lists.vectors
        users = torch.from_numpy(np.concatenate([query.vectors for query in queries])).to(vectors.device)
        rough = users @ vectors.float().T
        norms = vectors.float().norm(dim=1).amax() if len(vectors) else vectors.new_zeros(())
        # Twice the rounding error that two sums of D products can have, each.
        slack = 4 * vectors.shape[1] * 2.0**-24 * norms * users.norm(dim=1)
        return [
            self._best(query, user, scores, float(margin))
            for query, user, scores, margin in zip(queries, users, rough, slack, strict=True)
        ]

    def _ranked(self, query: Query) -> SearchReply:
        slots = self._matching(query)
        users = torch.tensor(query.vectors, device=slots.device)[None]
        scored = self.runner.score(users, slots[None], [query.formula])
        tasks, wanted = users.shape[1], torch.tensor([query.k], device=slots.device)
        rows = torch.arange(tasks, device=slots.device).repeat(len(slots))
        found = exact_scores(self.model.lists.vectors, users[0], rows, slots.repeat_interleave(tasks))
        candidates = United(slots[None], found.view(1, len(slots), tasks))
        ranked = select(self.model.lists.keys, candidates, *scored, wanted, query.k, query.quotas)
        there = ranked.slots[0] >= 0
        tasks_made = TaskScores(self.catalog.tasks, *(part[0, there].cpu().numpy() for part in ranked[2:]))
        return self._reply(query, ranked.slots[0, there], ranked.scores[0, there], len(slots), tasks_made)

    def _matching(self, query: Query) -> Tensor:
        """Slots of everything that matches a query's filter."""
        lists = self.model.lists
        (slots,) = torch.nonzero(lists.keys >= 0, as_tuple=True)
        if query.filter.expression is not None:
            slots = slots[matches(query.filter.expression, lists.columns, lists.planes, slots)]
        return slots

    def _best(self, query: Query, user: Tensor, rough: Tensor, slack: float) -> SearchReply:
        lists, slots = self.model.lists, self._matching(query)
        if len(slots) > query.k:
            near = rough[slots]
            slots = slots[near >= torch.topk(near, query.k).values[-1] - slack]
        scores = exact_scores(lists.vectors, user[None], torch.zeros_like(slots), slots)
        best = top_k(scores[None], lists.keys[slots][None], min(query.k, len(slots)))
        return self._reply(query, slots[best.places[0]], best.scores[0], len(slots))

    def _reply(
        self, query: Query, best: Tensor, scores: Tensor, scored: int, tasks: TaskScores | None = None
    ) -> SearchReply:
        chosen = best.cpu().numpy()
        reply = SearchReply(
            ids=self.payload.ids(chosen),
            keys=self.payload.keys(chosen),
            scores=scores.cpu().numpy(),
            version=self.catalog.version,
            seq=self.applied,
            explain={"plan": "exact", "scored": scored} if query.explain else None,
            tasks=tasks,
        )
        features = self._candidate_features(query, chosen)
        return reply if features is None else featured(reply, features)
