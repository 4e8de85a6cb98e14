"""Brute force: exact scores of everything that matches, without index, codes or planes.

Where there is a ranking stage, it judges everything that matches. A search agrees with that as far as its candidates
reach: wholly where each task finds everything that matches (`refine: all` up to `MAX_K` items), and else it can only
lack items.

Letters: B queries, N items, D dimensions, T tasks, k items of an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from silverray.kernels.scores import exact_scores
from silverray.kernels.topk import top_k
from silverray.kernels.union import United
from silverray.shard.api import SearchReply, SearchRequest, TaskScores
from silverray.shard.engine.engine import Engine
from silverray.shard.engine.rank import Ranker
from silverray.shard.filter.compiler import CompiledFilter
from silverray.shard.filter.verification import matches
from silverray.shard.value.valuer import Asked

QUERIES_AT_A_TIME = 16


class ExactEngine(Engine):
    """Answers by scoring every item that matches; `n_probe`, `refine` and `mode` change nothing."""

    @torch.inference_mode()
    def find_lists(self, requests: Sequence[SearchRequest]) -> list[SearchReply]:
        """See `Engine.find_lists`."""
        given = [None if r.keys is None else self.rank_given(r, r.keys) for r in requests]
        searched = iter(self._search_all([request for request in requests if request.keys is None]))
        return [next(searched) if reply is None else reply for reply in given]

    def _search_all(self, requests: Sequence[SearchRequest]) -> list[SearchReply]:
        if self.ranker is not None:
            return [self._ranked(request, self.ranker) for request in requests]
        replies: list[SearchReply] = []
        for start in range(0, len(requests), QUERIES_AT_A_TIME):
            replies += self._answer_some(requests[start : start + QUERIES_AT_A_TIME])
        return replies

    def _answer_some(self, requests: Sequence[SearchRequest]) -> list[SearchReply]:
        vectors = self.model.lists.vectors
        queries = torch.from_numpy(np.concatenate([request.vectors for request in requests])).to(vectors.device)
        rough = queries @ vectors.float().T
        norms = vectors.float().norm(dim=1).amax() if len(vectors) else vectors.new_zeros(())
        # Twice the rounding error that two sums of D products can have, each.
        slack = 4 * vectors.shape[1] * 2.0**-24 * norms * queries.norm(dim=1)
        return [
            self._reply(request, query, scores, float(margin))
            for request, query, scores, margin in zip(requests, queries, rough, slack, strict=True)
        ]

    def _ranked(self, request: SearchRequest, ranker: Ranker) -> SearchReply:
        slots = self._matching(request)
        users = torch.tensor(request.vectors, device=slots.device)[None]
        judged = ranker.judge(users, slots[None], [Asked.of(request)])
        tasks, wanted = users.shape[1], torch.tensor([request.k], device=slots.device)
        rows = torch.arange(tasks, device=slots.device).repeat(len(slots))
        found = exact_scores(self.model.lists.vectors, users[0], rows, slots.repeat_interleave(tasks))
        candidates = United(slots[None], found.view(1, len(slots), tasks))
        ranked = ranker.ranking.select(candidates, *judged, wanted, request.k, request.quotas)
        there = ranked.slots[0] >= 0
        told = TaskScores(self.catalog.tasks, *(part[0, there].cpu().numpy() for part in ranked[2:]))
        reply = self._answer_of(request, ranked.slots[0, there], ranked.scores[0, there], len(slots))
        return replace(reply, tasks=told)

    def _matching(self, request: SearchRequest) -> Tensor:
        """Slots of everything that matches a request's filter."""
        lists = self.model.lists
        (slots,) = torch.nonzero(lists.keys >= 0, as_tuple=True)
        assert isinstance(request.filter, CompiledFilter), "the request was not admitted"
        if request.filter.expression is not None:
            slots = slots[matches(request.filter.expression, lists.columns, lists.planes, slots)]
        return slots

    def _reply(self, request: SearchRequest, query: Tensor, rough: Tensor, slack: float) -> SearchReply:
        lists, slots = self.model.lists, self._matching(request)
        if len(slots) > request.k:
            near = rough[slots]
            slots = slots[near >= torch.topk(near, request.k).values[-1] - slack]
        scores = exact_scores(lists.vectors, query[None], torch.zeros_like(slots), slots)
        best = top_k(scores[None], lists.keys[slots][None], min(request.k, len(slots)))
        return self._answer_of(request, slots[best.places[0]], best.scores[0], len(slots))

    def _answer_of(self, request: SearchRequest, best: Tensor, scores: Tensor, scored: int) -> SearchReply:
        chosen = best.cpu().numpy()
        return SearchReply(
            ids=self.payload.ids(chosen),
            keys=self.payload.keys(chosen),
            scores=scores.cpu().numpy(),
            version=self.catalog.version,
            seq=self.applied,
            explain={"plan": "exact", "scored": scored} if request.explain else None,
            traits=self.traits(request, chosen),
        )
