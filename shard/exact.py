"""Brute force: exact scores of everything that matches, without index, codes or planes.

Letters: B queries, N items, D dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from silverray.kernels.scores import exact_scores
from silverray.kernels.topk import top_k
from silverray.shard.api import SearchReply, SearchRequest
from silverray.shard.engine import Engine
from silverray.shard.filter.compiler import CompiledFilter
from silverray.shard.filter.verify import matches

QUERIES_AT_A_TIME = 16


class ExactEngine(Engine):
    """Answers by scoring every item that matches; `n_probe`, `refine` and `mode` change nothing."""

    @torch.inference_mode()
    def answer(self, requests: Sequence[SearchRequest]) -> list[SearchReply]:
        """Answer admitted requests; see `Engine.answer`."""
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

    def _reply(self, request: SearchRequest, query: Tensor, rough: Tensor, slack: float) -> SearchReply:
        lists = self.model.lists
        slots = torch.arange(len(lists), device=rough.device)
        assert isinstance(request.filter, CompiledFilter), "the request was not admitted"
        if request.filter.expression is not None:
            slots = slots[matches(request.filter.expression, lists.columns, lists.planes, slots)]
        if len(slots) > request.k:
            near = rough[slots]
            slots = slots[near >= torch.topk(near, request.k).values[-1] - slack]
        scores = exact_scores(lists.vectors, query[None], torch.zeros_like(slots), slots)
        best = top_k(scores[None], lists.keys[slots][None], min(request.k, len(slots)))
        chosen = slots[best.places[0]].cpu().numpy()
        return SearchReply(
            ids=self.payload.ids(chosen),
            keys=self.payload.keys(chosen),
            scores=best.scores[0].cpu().numpy(),
            fields=self.payload.fields(request.fields, chosen),
            version=self.catalog.version,
            seq=self.catalog.seq,
            explain={"plan": "exact", "scored": len(slots)} if request.explain else None,
            traits=None if request.traits is None else self.traits(request.traits, chosen),
        )
