"""Plane programs on a GPU: over all words, and over the words of clusters with a count of what passes.

Letters: U programs, L instructions, R planes, W words, C clusters.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from silverray.kernels.programs import PLANE_BITS, Opcode

WORDS = 256
"""Words of a program of `_evaluate`: two for each thread of four warps, whose stack of eight places then stays in
registers."""
LIST_WORDS = 32
"""Words of a list that are evaluated together: as many as a warp has lanes."""
LISTS = 4
"""Lists of a program of `_evaluate_lists`: one is a step or two of a warp, less than starting a program takes; with
many, small catalogs would leave multiprocessors idle."""

_AND, _OR, _ANDNOT = tl.constexpr(int(Opcode.AND)), tl.constexpr(int(Opcode.OR)), tl.constexpr(int(Opcode.ANDNOT))
_LOAD, _STACK_AND = tl.constexpr(int(Opcode.LOAD)), tl.constexpr(int(Opcode.STACK_AND))
_STACK_OR, _STACK_NOT = tl.constexpr(int(Opcode.STACK_OR)), tl.constexpr(int(Opcode.STACK_NOT))
_PLANE_BITS, _PLANE_MASK = tl.constexpr(PLANE_BITS), tl.constexpr((1 << PLANE_BITS) - 1)


def launch(planes: Tensor, programs: Tensor) -> Tensor:
    """Run the kernel of `silverray.kernels.programs.evaluate_programs`."""
    planes, programs = planes.contiguous(), programs.contiguous()
    words = planes.shape[1]
    bits = torch.empty(len(programs), words, dtype=torch.int64, device=planes.device)
    if bits.numel():
        grid = (triton.cdiv(words, WORDS), len(programs))
        _evaluate[grid](planes, words, programs, programs.shape[1], bits, WORDS, num_warps=4)
    return bits


def launch_count(planes: Tensor, programs: Tensor, slots: int) -> Tensor:
    """Run the kernel of `silverray.kernels.programs.count_passing`."""
    step = 64 * LIST_WORDS
    offsets = torch.arange(-(-slots // step) + 1, device=planes.device).mul_(step).clamp_(max=slots)
    everything = torch.ones(1, 1, dtype=torch.int8, device=planes.device).expand(len(programs), len(offsets) - 1)
    return count_lists(planes, programs, offsets, everything).sum(1)


def count_lists(
    planes: Tensor, programs: Tensor, offsets: Tensor, wanted: Tensor, bits: Tensor | None = None
) -> Tensor:
    """Evaluate programs on the words of wanted lists.

    Args:
        planes: `[R, W]` int64.
        programs: `[U, L]` int32.
        offsets: `[C + 1]` int64; list c holds slots `offsets[c]` to `offsets[c + 1]`, end excluded.
        wanted: `[U, C]` int8 or int32; where 0, a program is not evaluated on a list.
        bits: `[U, W]` int64 that receives the words of the wanted lists; None drops them.

    Returns:
        `[U, C]` int64 slots that pass; 0 where not wanted.
    """
    count, lists = wanted.shape
    inside = torch.zeros(count, lists, dtype=torch.int64, device=planes.device)
    if inside.numel():
        _evaluate_lists[triton.cdiv(lists, LISTS), count](
            planes, planes.shape[1], programs, programs.shape[1], offsets, lists, wanted, *wanted.stride(),
            inside, inside if bits is None else bits, bits is not None, LISTS, LIST_WORDS, num_warps=1,
        )  # fmt: skip
    return inside


@triton.jit
def run_program(planes, words, program, length, at, there):
    """Words `at` (where `there`) of a program's result; `planes` `[R, words]` int64, `program` `[length]` int32."""
    # Each a value of its own: Triton carries a name through a loop only if a turn gives it another value than it had
    # before. Of eight names of one value it carries the first, and the compiler removes the stack.
    top = tl.zeros_like(at)
    s0, s1, s2, s3 = tl.zeros_like(at), tl.zeros_like(at), tl.zeros_like(at), tl.zeros_like(at)
    s4, s5, s6 = tl.zeros_like(at), tl.zeros_like(at), tl.zeros_like(at)
    for place in range(length):
        code = tl.load(program + place)
        opcode = code >> _PLANE_BITS
        row = planes + (code & _PLANE_MASK).to(tl.int64) * words + at
        if opcode == _LOAD:
            s6, s5, s4, s3, s2, s1, s0 = s5, s4, s3, s2, s1, s0, top
            top = tl.load(row, there, other=0)
        elif opcode == _AND:
            top &= tl.load(row, there, other=0)
        elif opcode == _OR:
            top |= tl.load(row, there, other=0)
        elif opcode == _ANDNOT:
            top &= ~tl.load(row, there, other=0)
        elif opcode == _STACK_NOT:
            top = ~top
        elif opcode >= _STACK_AND:
            if opcode == _STACK_AND:
                top &= s0
            else:
                top |= s0
            s0, s1, s2, s3, s4, s5 = s1, s2, s3, s4, s5, s6
    return top


@triton.jit
def popcount(words):
    """Set bits of int64 words, as int32."""
    pairs = words - ((words >> 1) & 0x5555555555555555)
    nibbles = (pairs & 0x3333333333333333) + ((pairs >> 2) & 0x3333333333333333)
    octets = (nibbles + (nibbles >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((octets * 0x0101010101010101 >> 56) & 0xFF).to(tl.int32)


@triton.jit
def words_in(words, at, first, last):
    """`words` at word numbers `at` without the bits of slots outside `first` to `last`, end excluded."""
    below = tl.minimum(tl.maximum(last - at * 64, 0), 64)
    before = tl.minimum(tl.maximum(first - at * 64, 0), 64)
    # A shift by 64 is undefined, so a full word is made in two steps.
    upper = tl.where(below == 64, -1, (1 << tl.minimum(below, 63)) - 1)
    lower = tl.where(before == 64, -1, (1 << tl.minimum(before, 63)) - 1)
    return words & upper & ~lower


@triton.jit
def _evaluate(planes, words, programs, length, bits, WORDS: tl.constexpr):
    """One program of the grid `[W / WORDS, U]` runs a plane program on `WORDS` words."""
    row, at = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64) * WORDS + tl.arange(0, WORDS)
    result = run_program(planes, words, programs + row * length, length, at, at < words)
    tl.store(bits + row * words + at, result, at < words)


@triton.jit
def _evaluate_lists(
    planes, words, programs, length, offsets, lists, wanted, wanted_row, wanted_column, inside, bits,
    KEEP: tl.constexpr, LISTS: tl.constexpr, WORDS: tl.constexpr,
):  # fmt: skip
    """One program of the grid `[C / LISTS, U]` runs a plane program on the words of `LISTS` lists."""
    row, begin = tl.program_id(1).to(tl.int64), tl.program_id(0) * LISTS
    for number in range(begin, tl.minimum(begin + LISTS, lists)):
        if tl.load(wanted + row * wanted_row + number * wanted_column) != 0:
            first, last = tl.load(offsets + number), tl.load(offsets + number + 1)
            total = tl.zeros((WORDS,), tl.int32)
            for start in range(first >> 6, (last + 63) >> 6, WORDS):
                at = start + tl.arange(0, WORDS).to(tl.int64)
                there = at * 64 < last
                result = run_program(planes, words, programs + row * length, length, at, there)
                if KEEP:
                    tl.store(bits + row * words + at, result, there)
                total += popcount(tl.where(there, words_in(result, at, first, last), 0))
            tl.store(inside + row * lists + number, tl.sum(total, 0).to(tl.int64))
