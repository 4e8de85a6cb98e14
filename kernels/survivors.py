"""Scoring survivors: the best of all slots that pass a filter. Letters: N slots, D dimensions, Q queries, U filters."""

from __future__ import annotations

import torch
from torch import Tensor

from silverray.kernels.bits import set_bits
from silverray.kernels.checks import check
from silverray.kernels.ops import define, lazily
from silverray.kernels.programs import evaluate_programs
from silverray.kernels.scores import exact_scores
from silverray.kernels.topk import TopK, top_k

MAX_WORDS = 1 << 22
"""Most words of filter bits that `score_passing` holds at a time (32 MiB)."""


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


def score_passing(
    vectors: Tensor, keys: Tensor, planes: Tensor, programs: Tensor, filters: Tensor, queries: Tensor, k: int
) -> TopK:
    """Find the best slots of each query by exact score among those that pass its program.

    Args:
        vectors: `[N, D]` as in `score_survivors`, and so `keys`, `queries` and `k`.
        keys: see there.
        planes: `[R, W]` int64.
        programs: `[U, L]` int32, as in `evaluate_programs`.
        filters: `[Q]` int64, the program of each query.
        queries: see there.
        k: see there.

    Returns:
        A `TopK` as from `score_survivors`.

    Cost:
        That of `score_survivors`, and of the programs that are used; at most `MAX_WORDS` of their bits are held.
    """
    step = max(1, MAX_WORDS // max(1, planes.shape[1]))
    if len(programs) == 1:
        return score_survivors(vectors, keys, evaluate_programs(planes, programs), filters, queries, k)
    used, mine = torch.unique(filters, return_inverse=True)
    best = TopK(queries.new_full((len(queries), k), -torch.inf), filters.new_full((len(queries), k), -1))
    for first in range(0, len(used), step):
        (rows,) = torch.nonzero((mine >= first) & (mine < first + step), as_tuple=True)
        bits = evaluate_programs(planes, programs[used[first : first + step]])
        best.scores[rows], best.places[rows] = score_survivors(
            vectors, keys, bits, mine[rows] - first, queries[rows], k
        )
    return best


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
    cpu=lazily("cpu.survivors.launch"),
    cuda=lazily("gpu.survivors.launch"),
    fake=lambda queries, filters, k, **_: (
        queries.new_empty(queries.shape[0], k),
        filters.new_empty(queries.shape[0], k),
    ),
)
