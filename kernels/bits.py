"""Bit planes: transposing, counting and listing.

Bit `i % 64` of word `i // 64` is slot i. Letters: B rows of bits, W words, R planes, C ranges, N slots, M set bits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silverray.kernels.ops import define

TRANSPOSE_BLOCK = 64 * 1024
"""Words that are transposed at a time: with their copies they stay within a core's second cache."""


def words_for(bits: int) -> int:
    """Number of 64-bit words that hold `bits` bits."""
    return -(-bits // 64)


def transpose_bits(rows: Tensor, width: int) -> Tensor:
    """Turn item-major filter bits into planes.

    Args:
        rows: `[N, words_for(width)]` int64 on the CPU, one row an item; bit r is plane r.
        width: number of planes R.

    Returns:
        `[R, words_for(N)]` int64 planes; bits past the last item are 0.

    Raises:
        ValueError: a wrong dtype or shape.

    Cost:
        Memory for one block of 64 Ki items unpacked to a byte a bit.
    """
    if rows.dtype != torch.int64 or rows.dim() != 2 or rows.shape[1] != words_for(width):
        raise ValueError(f"rows: expected [N, {words_for(width)}] int64, got {list(rows.shape)} {rows.dtype}")
    planes = np.zeros((width, words_for(len(rows)) * 8), dtype=np.uint8)
    packed = np.ascontiguousarray(rows.numpy()).view(np.uint8)
    for start in range(0, len(packed), TRANSPOSE_BLOCK):
        block = packed[start : start + TRANSPOSE_BLOCK]
        columns = np.unpackbits(block, axis=1, count=width, bitorder="little").T
        bytes_ = np.packbits(columns, axis=1, bitorder="little")
        planes[:, start // 8 : start // 8 + bytes_.shape[1]] = bytes_
    return torch.from_numpy(planes.view(np.int64))


def popcount(words: Tensor) -> Tensor:
    """Count the set bits of every word.

    Args:
        words: int64, any shape.

    Returns:
        int64 of the same shape, 0 to 64.
    """
    counts: Tensor = _popcount(words)
    return counts


def _popcount_reference(words: Tensor) -> Tensor:
    pairs = words - ((words >> 1) & 0x5555555555555555)
    nibbles = (pairs & 0x3333333333333333) + ((pairs >> 2) & 0x3333333333333333)
    octets = (nibbles + (nibbles >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (octets * 0x0101010101010101 >> 56) & 0xFF


def _popcount_cpu(words: Tensor) -> Tensor:
    unsigned: NDArray[np.uint64] = words.numpy().view(np.uint64)
    return torch.from_numpy(np.bitwise_count(unsigned).astype(np.int64))


_popcount = define("popcount", _popcount_reference, cpu=_popcount_cpu, fake=lambda words: torch.empty_like(words))


def count_ranges(bits: Tensor, offsets: Tensor) -> Tensor:
    """Count the set bits in consecutive ranges of slots.

    Args:
        bits: `[B, W]` int64.
        offsets: `[C + 1]` int64, ascending, at most 64·W; range c is `offsets[c]` to `offsets[c + 1]`, end excluded.

    Returns:
        `[B, C]` int64.
    """
    ends = torch.cumsum(popcount(bits), dim=1)
    before = torch.cat([ends.new_zeros(bits.shape[0], 1), ends], dim=1)
    padded = torch.cat([bits, bits.new_zeros(bits.shape[0], 1)], dim=1)
    word, bit = offsets >> 6, offsets & 63
    below = (torch.ones_like(bit) << bit) - 1
    ranks = before[:, word] + popcount(padded[:, word] & below)
    return ranks.diff(dim=1)


def range_bits(chosen: Tensor, offsets: Tensor, words: int) -> Tensor:
    """Set the bits of chosen ranges of slots.

    Args:
        chosen: `[B, C]` bool, the ranges of each row.
        offsets: `[C + 1]` int64, as in `count_ranges`, beginning with 0.
        words: W, enough for the last slot.

    Returns:
        `[B, W]` int64; bits past the last slot are 0.

    Cost:
        Writes 128·W bytes per row on the way.
    """
    slots = torch.repeat_interleave(chosen, offsets.diff(), dim=1)
    padded = torch.nn.functional.pad(slots.to(torch.uint8), (0, words * 64 - slots.shape[1]))
    weights = (1 << torch.arange(8, device=chosen.device)).to(torch.uint8)
    octets = (padded.view(chosen.shape[0], words, 8, 8) * weights).sum(dim=3, dtype=torch.uint8)
    return octets.view(torch.int64)[..., 0]


class SetBits(NamedTuple):
    """The set bits of `[B, W]` words, in row then slot order: `rows` and `slots` are `[M]` int64."""

    rows: Tensor
    slots: Tensor


def set_bits(bits: Tensor) -> SetBits:
    """List the set bits.

    Args:
        bits: `[B, W]` int64.

    Returns:
        Their rows and slots, ordered. The number M is known only on the device: reading it synchronises.
    """
    rows, words = torch.nonzero(bits, as_tuple=True)
    places = torch.arange(64, device=bits.device)
    index, bit = torch.nonzero((bits[rows, words, None] >> places) & 1, as_tuple=True)
    return SetBits(rows[index], words[index] * 64 + bit)


def pack_bits(rows: Tensor, slots: Tensor, count: int, words: int) -> Tensor:
    """Set single bits: the inverse of `set_bits`.

    Args:
        rows: `[M]` int64.
        slots: `[M]` int64; no pair of row and slot twice.
        count: number of rows B.
        words: W, enough for the largest slot.

    Returns:
        `[B, W]` int64.
    """
    bits = rows.new_zeros(count * words)
    # The bits of a word are different powers of two, so their sum is their union.
    bits.index_add_(0, rows * words + (slots >> 6), torch.ones_like(slots) << (slots & 63))
    return bits.view(count, words)


def read_bits(bits: Tensor, rows: Tensor, slots: Tensor) -> Tensor:
    """Read single bits.

    Args:
        bits: `[B, W]` int64.
        rows: int64 rows, broadcastable with `slots`.
        slots: int64 slots.

    Returns:
        bool of the broadcast shape.
    """
    return (bits[rows, slots >> 6] >> (slots & 63) & 1).bool()
