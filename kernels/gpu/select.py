"""Selecting on a GPU: the k best of each query by (score desc, key asc), without sorting the rest.

A radix select finds the k-th score, 8 bits at a time, and where several candidates have it the keys decide. The k
that are left find their places by counting how many are better. Letters: Q queries, K candidates of a query.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from silverray.kernels.gpu.launch import power_of_two

CHUNK = 4096
"""Candidates that a program of `_select` looks at together: eight for each thread of sixteen warps. One program a
query reads all, so that it must be wide."""
RANKED = 64
"""Candidates of a program of `_rank`: with few a program, the k of one query still fill the multiprocessors."""
COMPARED = 32
"""Candidates with which it compares them at a time: with these 2,048 pairs are 16 for each thread, in registers."""


def select(
    scores: Tensor, candidates: Tensor, counts: Tensor, keys: Tensor, keep: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Select the `keep` best of each query.

    Args:
        scores: `[Q, K]` float32 without NaN; -inf is as good as none.
        candidates: `[Q, K]` int32 items.
        counts: `[Q]` int64; query q has `counts[q]` candidates (or all K of its row where that is less).
        keys: `[N]` int64 key of every item.
        keep: how many.

    Returns:
        `[Q, keep]` float32 scores and int32 items in no order, and how many there are, `[Q]` int64; places beyond are
        not written.
    """
    best = torch.empty(len(counts), keep, device=scores.device)
    items = torch.empty(len(counts), keep, dtype=torch.int32, device=scores.device)
    found = torch.zeros_like(counts)
    if len(counts):
        chunk = min(CHUNK, power_of_two(scores.shape[1], 256))
        _select[(len(counts),)](
            scores, candidates, scores.stride(0), scores.shape[1], counts, keys, keep, best, items, found, chunk,
            num_warps=16 if chunk == CHUNK else 4,
        )  # fmt: skip
    return best, items, found


def rank(scores: Tensor, candidates: Tensor, counts: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Sort what `select` selected by (score desc, key asc).

    Returns:
        `[Q, k]` float32 scores and int64 items; -inf and -1 beyond the count.
    """
    ranked, items = torch.empty_like(scores), torch.empty_like(candidates, dtype=torch.int64)
    if scores.numel():
        _rank[len(scores), triton.cdiv(scores.shape[1], RANKED)](
            scores, candidates, scores.shape[1], counts, keys, ranked, items, RANKED, COMPARED, num_warps=4
        )
    return ranked, items


@triton.jit
def _ordered(scores):
    """Scores as int32 whose bits, unsigned, are in the same order; both zeros are one."""
    bits = tl.where(scores == 0, 0.0, scores).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) | -2147483648)


@triton.jit
def _digit(counted, needed, BINS: tl.constexpr):
    """The largest digit with `needed` or more at it or above it, and how many are above it."""
    above = tl.cumsum(counted, 0, reverse=True)
    digit = tl.sum((above >= needed).to(tl.int32), 0) - 1
    return digit, tl.sum(tl.where(tl.arange(0, BINS) > digit, counted, 0), 0)


@triton.jit
def _key_threshold(scores, candidates, count, keys, tied, needed, CHUNK: tl.constexpr):
    """The `needed`-th smallest key of the candidates whose ordered score is `tied`."""
    prefix = tl.full((), 0, tl.int64)
    for step in tl.static_range(8):
        counted = tl.zeros((256,), tl.int32)
        for start in range(0, count, CHUNK):
            place = start + tl.arange(0, CHUNK)
            mine = place < count
            mine = mine & (_ordered(tl.load(scores + place, mine, other=float("-inf"))) == tied)
            key = tl.load(keys + tl.load(candidates + place, mine, other=0), mine, other=0)
            if step > 0:
                mine = mine & ((key >> (64 - 8 * step)) == prefix)
            # Smallest first: digits are counted from the other end.
            digit = 255 - ((key >> (56 - 8 * step)) & 255).to(tl.int32)
            counted += tl.histogram(digit, 256, mask=mine)
        chosen, above = _digit(counted, needed, 256)
        needed -= above
        prefix = (prefix << 8) | (255 - chosen).to(tl.int64)
    return prefix


@triton.jit
def _select(
    scores, candidates, stride, width, counts, keys, keep, best, items, found, CHUNK: tl.constexpr
):  # fmt: skip
    """One program of the grid `[Q]` selects a query's best."""
    query = tl.program_id(0).to(tl.int64)
    scores += query * stride
    candidates += query * stride
    count = tl.minimum(tl.load(counts + query), width).to(tl.int32)
    least, highest = tl.full((), 0, tl.int32), tl.full((), 0x7FFFFFFFFFFFFFFF, tl.int64)
    if count > keep:
        needed = tl.full((), 0, tl.int32) + keep
        ties = needed
        for step in tl.static_range(4):
            counted = tl.zeros((256,), tl.int32)
            for start in range(0, count, CHUNK):
                place = start + tl.arange(0, CHUNK)
                mine = place < count
                value = _ordered(tl.load(scores + place, mine, other=float("-inf")))
                if step > 0:
                    mine = mine & (((value ^ least) >> (32 - 8 * step)) == 0)
                counted += tl.histogram((value >> (24 - 8 * step)) & 255, 256, mask=mine)
            digit, above = _digit(counted, needed, 256)
            ties = tl.sum(tl.where(tl.arange(0, 256) == digit, counted, 0), 0)
            needed -= above
            least = least | (digit << (24 - 8 * step))
        if ties > needed:
            highest = _key_threshold(scores, candidates, count, keys, least, needed, CHUNK)
    done = tl.full((), 0, tl.int32)
    for start in range(0, count, CHUNK):
        place = start + tl.arange(0, CHUNK)
        score = tl.load(scores + place, place < count, other=float("-inf"))
        item = tl.load(candidates + place, place < count, other=0)
        value = _ordered(score)
        # Signed comparison after the highest bit is turned over.
        chosen = ((value ^ -2147483648) > (least ^ -2147483648)) & (score > float("-inf"))
        tied = (value == least) & (score > float("-inf"))
        if highest < 0x7FFFFFFFFFFFFFFF:
            tied = tied & (tl.load(keys + item, tied, other=highest + 1) <= highest)
        chosen = chosen | tied
        at = done + tl.cumsum(chosen.to(tl.int32), 0) - 1
        tl.store(best + query * keep + at, score, chosen)
        tl.store(items + query * keep + at, item, chosen)
        done += tl.sum(chosen.to(tl.int32), 0)
    tl.store(found + query, done.to(tl.int64))


@triton.jit
def _rank(
    scores, candidates, width, counts, keys, ranked, items, RANKED: tl.constexpr, COMPARED: tl.constexpr
):  # fmt: skip
    """One program of the grid `[Q, k / RANKED]` finds the places of `RANKED` candidates of a query."""
    row, count = tl.program_id(0).to(tl.int64) * width, tl.load(counts + tl.program_id(0))
    place = tl.program_id(1) * RANKED + tl.arange(0, RANKED)
    mine = place < count
    score, item = tl.load(scores + row + place, mine, other=0), tl.load(candidates + row + place, mine, other=0)
    key = tl.load(keys + item, mine, other=0)
    better = tl.zeros((RANKED,), tl.int32)
    for start in range(0, count.to(tl.int32), COMPARED):
        at = start + tl.arange(0, COMPARED)
        others = tl.load(scores + row + at, at < count, other=float("-inf"))
        their_items = tl.load(candidates + row + at, at < count, other=0)
        their_keys = tl.load(keys + their_items, at < count, other=0x7FFFFFFFFFFFFFFF)
        before = (others[None, :] > score[:, None]) | (
            (others[None, :] == score[:, None]) & (their_keys[None, :] < key[:, None])
        )
        better += tl.sum(before.to(tl.int32), 1)
    tl.store(ranked + row + better, score, mine)
    tl.store(items + row + better, item.to(tl.int64), mine)
    unused = (place >= count) & (place < width)
    tl.store(ranked + row + place, float("-inf"), unused)
    tl.store(items + row + place, -1, unused)
