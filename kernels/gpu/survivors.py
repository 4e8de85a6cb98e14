"""Listing what passes a filter on a GPU, and scoring all of it.

Letters: N slots, D dimensions, Q queries, U filters, W words, K places of a list.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from silverray.kernels.gpu.programs import popcount, words_in
from silverray.kernels.gpu.refine import best_of

WORDS = 32
"""Words of a program of `_list_bits`: their 2,048 slots are 16 for each thread of four warps."""
MAX_LISTED = 1 << 26
"""Most slots that are scored at a time (512 MiB)."""


def launch(
    vectors: Tensor, keys: Tensor, bits: Tensor, filters: Tensor, queries: Tensor, k: int
) -> tuple[Tensor, Tensor]:
    """Run the kernels of `silverray.kernels.survivors.score_survivors`, as many queries at a time as memory allows."""
    counts = list_bits(bits, len(vectors), 0)[1]
    room = int(counts.max()) if len(counts) else 0
    lists, counts = list_bits(bits, len(vectors), room)
    scores, slots = queries.new_empty(len(queries), k), filters.new_empty(len(queries), k)
    step = max(1, MAX_LISTED // max(1, room))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        mine = filters[part]
        scores[part], slots[part] = best_of(vectors, keys, queries[part], lists[mine], counts[mine], k)
    return scores, slots


def list_bits(bits: Tensor, slots: int, room: int, wanted: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """List the set bits of each row, in no order.

    Args:
        bits: `[U, W]` int64.
        slots: N; bits past it do not count.
        room: places of each list.
        wanted: `[U]` int32 at least 0; rows where it is 0 stay empty. None wants all.

    Returns:
        `[U, room]` int32 slots, and how many there are, `[U]` int64; past `room` they were dropped.
    """
    lists = torch.empty(len(bits), room, dtype=torch.int32, device=bits.device)
    counts = torch.zeros(len(bits), dtype=torch.int64, device=bits.device)
    if bits.numel():
        grid = (triton.cdiv(bits.shape[1], WORDS), len(bits))
        _list_bits[grid](
            bits, bits.shape[1], slots, counts if wanted is None else wanted, wanted is not None, lists, room, counts,
            WORDS, num_warps=4,
        )  # fmt: skip
    return lists, counts


@triton.jit
def _list_bits(
    bits, words, slots, wanted, SOME: tl.constexpr, lists, room, counts, WORDS: tl.constexpr
):  # fmt: skip
    """One program of the grid `[W / WORDS, U]` lists the set bits of `WORDS` words."""
    row, at = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64) * WORDS + tl.arange(0, WORDS)
    end = words
    if SOME:
        end = words * tl.minimum(tl.load(wanted + row), 1)
    mine = words_in(tl.load(bits + row * words + at, at < end, other=0), at, 0, slots)
    each = popcount(mine)
    total = tl.sum(each, 0)
    if total > 0:
        first = tl.atomic_add(counts + row, total.to(tl.int64), sem="relaxed")
        set_ = ((mine[:, None] >> tl.arange(0, 64).to(tl.int64)[None, :]) & 1).to(tl.int32)
        place = first + (tl.cumsum(each, 0) - each)[:, None] + tl.cumsum(set_, 1) - 1
        slot = at.to(tl.int32)[:, None] * 64 + tl.arange(0, 64)[None, :]
        tl.store(lists + row * room + place, slot, (set_ > 0) & (place < room))
