"""Scoring survivors: the best of all slots that pass a filter. Letters: N slots, D dimensions, Q queries, U filters."""

from __future__ import annotations

import torch
from torch import Tensor

from silverray.kernels.bits import set_bits
from silverray.kernels.checks import check
from silverray.kernels.ops import define, lazily
from silverray.kernels.scores import exact_scores
from silverray.kernels.topk import TopK, top_k


def score_survivors(vectors: Tensor, keys: Tensor, bits: Tensor, filters: Tensor, queries: Tensor, k: int) -> TopK:
    """Find the best slots of each query by exact score among those whose bit is set.

    Args:
        vectors: `[N, D]` float32 or bfloat16, the item cache; gaps between rows must hold finite numbers.
        keys: `[N]` int64 item keys, by which equal scores are ordered.
        bits: `[U, W]` int64, a row for each filter as from `evaluate_programs`; bits past the last slot do not count.
        filters: `[Q]` int64, the row of each query.
        queries: `[Q, D]` float32.
        k: how many to select.

    Returns:
        A `TopK` by (score desc, key asc) whose places are slots; the scores are those of `exact_scores`.

    Raises:
        ValueError: a wrong dtype or shape.

    Cost:
        Lists the set bits of a row once, and reads D elements of the cache per set bit once for all its queries.
    """
    if vectors.dtype not in (torch.float32, torch.bfloat16) or vectors.dim() != 2:
        raise ValueError(f"vectors: expected [N, D] float32 or bfloat16, got {list(vectors.shape)} {vectors.dtype}")
    check("keys", keys, torch.int64, len(vectors))
    check("bits", bits, torch.int64, None, None)
    if bits.shape[1] * 64 < len(vectors):
        raise ValueError(f"bits: expected words for {len(vectors)} slots, got {list(bits.shape)}")
    check("queries", queries, torch.float32, None, vectors.shape[1])
    check("filters", filters, torch.int64, len(queries))
    return TopK(*_score_survivors(vectors, keys, bits, filters, queries, k))


def reference(
    vectors: Tensor, keys: Tensor, bits: Tensor, filters: Tensor, queries: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """`score_survivors` in plain PyTorch: the specification."""
    best = queries.new_full((len(queries), k), -torch.inf), filters.new_full((len(queries), k), -1)
    for query, row in enumerate(filters.tolist()):
        slots = set_bits(bits[row : row + 1]).slots
        slots = slots[slots < len(vectors)]
        scores = exact_scores(vectors, queries, torch.full_like(slots, query), slots)
        found = top_k(scores[None], keys[slots][None], k)
        best[0][query] = found.scores[0]
        if len(slots):
            best[1][query] = torch.where(found.places[0] >= 0, slots[found.places[0].clamp(min=0)], -1)
    return best


_score_survivors = define(
    "score_survivors",
    reference,
    cpu=lazily("survivors_numba.launch"),
    fake=lambda queries, filters, k, **_: (queries.new_empty(len(queries), k), filters.new_empty(len(queries), k)),
)
