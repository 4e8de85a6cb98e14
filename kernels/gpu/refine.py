"""Refining on a GPU: exact scores, the best by a radix select, and their order. Letters: Q queries, K candidates."""

from __future__ import annotations

import torch
from torch import Tensor

from silverray.kernels.gpu.scores import score_candidates
from silverray.kernels.gpu.select import rank, select


def launch(vectors: Tensor, keys: Tensor, queries: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Run the kernels of `silverray.kernels.refine.refine`."""
    counts = torch.full((len(queries),), candidates.shape[1], device=queries.device)
    return best_of(vectors, keys, queries, candidates.to(torch.int32), counts, k)


def best_of(
    vectors: Tensor, keys: Tensor, queries: Tensor, candidates: Tensor, counts: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """The k best candidates by exact score, sorted: `[Q, k]` float32 scores and int64 slots.

    Args:
        vectors: `[N, D]` float32 or bfloat16.
        keys: `[N]` int64.
        queries: `[Q, D]` float32.
        candidates: `[Q, K]` int32 slots, -1 where there is none.
        counts: `[Q]` int64, how many of them there are, at most K.
        k: how many to select.
    """
    scores = torch.empty(candidates.shape, device=queries.device)
    score_candidates(vectors, queries, candidates, counts, scores)
    best, slots, found = select(scores, candidates, counts, keys, k)
    return rank(best, slots, found, keys)
