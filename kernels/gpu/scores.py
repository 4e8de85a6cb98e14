"""Exact scores on a GPU: the same products in the same order as `silverray.kernels.scores`, bit for bit.

Letters: N items, Q queries, D dimensions, K candidates of a query, M pairs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from silverray.kernels.gpu.launch import EXACT, power_of_two

TILE = 4096
"""Elements of the vectors that a program scores together: 32 for each thread of four warps, which are halved in
registers."""


def launch(vectors: Tensor, queries: Tensor, rows: Tensor, slots: Tensor) -> Tensor:
    """Run the kernel of `silverray.kernels.scores.exact_scores`."""
    scores = torch.empty(len(slots), device=queries.device)
    if len(slots):
        block, width = _block(vectors, TILE // 2)  # two tiles: of the vectors and of the queries
        _score_pairs[(triton.cdiv(len(slots), block),)](
            vectors, vectors.stride(0), queries, queries.stride(0), vectors.shape[1], rows.contiguous(),
            slots.contiguous(), len(slots), scores, block, width, num_warps=4, **EXACT,
        )  # fmt: skip
    return scores


def score_candidates(vectors: Tensor, queries: Tensor, candidates: Tensor, counts: Tensor, scores: Tensor) -> None:
    """Score the first `counts[q]` candidates of each query.

    Args:
        vectors: `[N, D]` float32 or bfloat16, rows any distance apart.
        queries: `[Q, D]` float32.
        candidates: `[Q, K]` int32 or int64 items, -1 where there is none; places from `counts[q]` on are not read.
        counts: `[Q]` int64.
        scores: `[Q, K]` float32, where the scores go; places from `counts[q]` on are left as they are.
    """
    if candidates.numel():
        block, width = _block(vectors, TILE)
        _score_candidates[triton.cdiv(candidates.shape[1], block), len(queries)](
            vectors, vectors.stride(0), queries, queries.stride(0), vectors.shape[1], candidates,
            candidates.stride(0), counts, scores, scores.stride(0), block, width, num_warps=4, **EXACT,
        )  # fmt: skip


def _block(vectors: Tensor, tile: int) -> tuple[int, int]:
    width = power_of_two(vectors.shape[1])
    return min(128, max(1, tile // width)), width


@triton.jit
def halving_sum(products, BLOCK: tl.constexpr, WIDTH: tl.constexpr):
    """`[BLOCK, WIDTH]` to `[BLOCK]` as `silverray.kernels.scores.halving_sum` does it."""
    if WIDTH == 1:
        return tl.reshape(products, (BLOCK,))
    else:  # noqa: RET505 - what is not chosen must not be compiled
        first, second = tl.split(tl.permute(tl.reshape(products, (BLOCK, 2, WIDTH // 2)), (0, 2, 1)))
        return halving_sum(first + second, BLOCK, WIDTH // 2)


@triton.jit
def load_rows(vectors, stride, slots, there, dimensions, WIDTH: tl.constexpr):
    """Rows `slots` (where `there`) as float32, filled up with zeros to `WIDTH` columns."""
    columns = tl.arange(0, WIDTH)
    at = vectors + slots.to(tl.int64)[:, None] * stride + columns[None, :]
    return tl.load(at, there[:, None] & (columns < dimensions)[None, :], other=0).to(tl.float32)


@triton.jit
def _score_candidates(
    vectors, stride, queries, query_stride, dimensions, candidates, candidate_stride, counts, scores, score_stride,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One program of the grid `[K / BLOCK, Q]` scores `BLOCK` candidates of a query."""
    query, place = tl.program_id(1).to(tl.int64), tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    count, columns = tl.load(counts + query), tl.arange(0, WIDTH)
    if tl.program_id(0) * BLOCK < count:
        slots = tl.load(candidates + query * candidate_stride + place, place < count, other=0)
        mine = tl.load(queries + query * query_stride + columns, columns < dimensions, other=0)
        items = load_rows(vectors, stride, slots, (place < count) & (slots >= 0), dimensions, WIDTH)
        found = tl.where(slots >= 0, halving_sum(items * mine[None, :], BLOCK, WIDTH), float("-inf"))
        tl.store(scores + query * score_stride + place, found, place < count)


@triton.jit
def _score_pairs(
    vectors, stride, queries, query_stride, dimensions, rows, slots, count, scores,
    BLOCK: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """One program of the grid `[M / BLOCK]` scores `BLOCK` pairs."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slots + place, place < count, other=-1)
    row = tl.load(rows + place, place < count, other=0)
    items = load_rows(vectors, stride, slot, slot >= 0, dimensions, WIDTH)
    mine = load_rows(queries, query_stride, row, slot >= 0, dimensions, WIDTH)
    found = halving_sum(items * mine, BLOCK, WIDTH)
    tl.store(scores + place, tl.where(slot >= 0, found, float("-inf")), place < count)
