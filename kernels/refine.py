"""Refining: the exact scores of candidates, and the best of them. Letters: N items, Q queries, D dimensions."""

from __future__ import annotations

import torch
from torch import Tensor

from silverray.kernels.checks import check
from silverray.kernels.ops import define, lazily
from silverray.kernels.scores import exact_scores
from silverray.kernels.topk import TopK, top_k


def refine(vectors: Tensor, keys: Tensor, queries: Tensor, candidates: Tensor, k: int) -> TopK:
    """Score candidates exactly and select the k best of each query.

    Args:
        vectors: `[N, D]` float32 or bfloat16, the item cache. Where rows lie further apart than D elements, the gaps
            must hold finite numbers.
        keys: `[N]` int64 item keys, by which equal scores are ordered.
        queries: `[Q, D]` float32.
        candidates: `[Q, K]` int64 slots, each at most once in a row, in any order; -1 is none.
        k: how many to select.

    Returns:
        A `TopK` by (score desc, key asc) whose places are slots; the scores are those of `exact_scores`.

    Raises:
        ValueError: a wrong dtype or shape.

    Cost:
        Reads D elements of the cache per candidate.
    """
    if vectors.dim() != 2 or queries.shape[1:] != vectors.shape[1:]:
        raise ValueError(f"queries: expected [Q, {vectors.shape[1]}], got {list(queries.shape)}")
    if vectors.dtype not in (torch.float32, torch.bfloat16) or queries.dtype != torch.float32:
        raise ValueError(f"vectors: expected float32 or bfloat16, got {vectors.dtype}; queries are {queries.dtype}")
    if candidates.dtype != torch.int64 or candidates.dim() != 2 or len(candidates) != len(queries):
        raise ValueError(f"candidates: expected [{len(queries)}, K] int64, got {list(candidates.shape)}")
    check("keys", keys, torch.int64, len(vectors))
    return TopK(*_refine(vectors, keys, queries, candidates, k))


def reference(vectors: Tensor, keys: Tensor, queries: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`refine` in plain PyTorch: the specification."""
    rows = torch.arange(len(queries), device=queries.device)[:, None].expand_as(candidates)
    scores = exact_scores(vectors, queries, rows.flatten(), candidates.flatten()).view(candidates.shape)
    if not len(keys):
        keys = keys.new_zeros(1)
    found = top_k(scores, keys[candidates.clamp(min=0)], k)
    if not candidates.shape[1]:
        return found.scores, found.places
    slots = candidates.gather(1, found.places.clamp(min=0))
    return found.scores, torch.where(found.places >= 0, slots, -1)


_refine = define(
    "refine",
    reference,
    cpu=lazily("cpu.refine.launch"),
    cuda=lazily("gpu.refine.launch"),
    fake=lambda queries, keys, k, **_: (queries.new_empty(queries.shape[0], k), keys.new_empty(queries.shape[0], k)),
)
