"""Plane programs: a filter as a short list of instructions over bit planes.

A plane is one bit per slot, packed to int64 words; bit `i % 64` of word `i // 64` is slot `i`. A program is postfix
with a small stack. Letters: B programs, L instructions, R planes, W words.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

from silverray.kernels.bits import count_ranges
from silverray.kernels.ops import define, lazily

MAX_INSTRUCTIONS = 1_024
"""Longest program: 16 instructions for each of the 64 slots of a word, about what reading their values would cost."""
MAX_STACK = 8
"""Deepest stack: it bounds the scratch of every kernel, and what needs more levels is compiled another way round."""
PLANE_BITS = 24
"""Bits of an instruction that name a plane; the other 8 of its 32 hold the opcode."""


class Opcode(IntEnum):
    """What an instruction does; an instruction is `opcode << 24 | plane`."""

    NOP = 0
    """Nothing: padding."""
    LOAD = 1
    """Push a plane."""
    AND = 2
    """top &= plane."""
    OR = 3
    """top |= plane."""
    ANDNOT = 4
    """top &= ~plane."""
    STACK_AND = 5
    """Pop a; top &= a."""
    STACK_OR = 6
    """Pop a; top |= a."""
    STACK_NOT = 7
    """top = ~top."""


def instruction(opcode: Opcode, plane: int = 0) -> int:
    """Encode one instruction as an int32."""
    return int(opcode) << PLANE_BITS | plane


def evaluate_programs(planes: Tensor, programs: Tensor) -> Tensor:
    """Run every program over all words of the planes.

    Args:
        planes: `[R, W]` int64, one row a plane.
        programs: `[B, L]` int32, one row a program, padded with `Opcode.NOP`. Each must leave exactly one value on
            a stack of at most `MAX_STACK`; a compiler guarantees that, it is not checked here.

    Returns:
        `[B, W]` int64: bit `i % 64` of word `i // 64` of row b says whether slot i passes program b. Bits past the
        last slot are whatever the program makes of the planes' own, so a program ends by ANDing the `live` plane.

    Raises:
        ValueError: a wrong dtype or shape.

    Cost:
        Reads 8·W bytes per plane instruction and writes 8·W per program.

    Example:
        >>> planes = torch.tensor([[0b1111], [0b1010]])
        >>> program = [instruction(Opcode.LOAD, 0), instruction(Opcode.ANDNOT, 1)]
        >>> evaluate_programs(planes, torch.tensor([program], dtype=torch.int32))
        tensor([[5]])
    """
    _check(planes, programs)
    bits: Tensor = _evaluate_programs(planes, programs)
    return bits


def reference(planes: Tensor, programs: Tensor) -> Tensor:
    """`evaluate_programs` in plain PyTorch: the specification."""
    bits = planes.new_empty(programs.shape[0], planes.shape[1])
    for row, program in enumerate(programs.tolist()):
        bits[row] = _run(planes, program)
    return bits


def count_passing(planes: Tensor, programs: Tensor, slots: int) -> Tensor:
    """Count the slots that pass each program.

    Args:
        planes: `[R, W]` int64, as in `evaluate_programs`.
        programs: `[B, L]` int32.
        slots: number of slots, at most 64·W; bits past them do not count.

    Returns:
        `[B]` int64.

    Raises:
        ValueError: a wrong dtype or shape.

    Cost:
        Reads 8·W bytes per plane instruction; writes nothing but the counts.
    """
    _check(planes, programs)
    if not 0 <= slots <= planes.shape[1] * 64:
        raise ValueError(f"slots: expected 0 to {planes.shape[1] * 64}, got {slots}")
    counts: Tensor = _count_passing(planes, programs, slots)
    return counts


def count_reference(planes: Tensor, programs: Tensor, slots: int) -> Tensor:
    """`count_passing` in plain PyTorch: the specification."""
    ends = torch.tensor([0, slots], device=planes.device)
    return count_ranges(reference(planes, programs), ends)[:, 0]


def _check(planes: Tensor, programs: Tensor) -> None:
    if planes.dtype != torch.int64 or planes.dim() != 2:
        raise ValueError(f"planes: expected [R, W] int64, got {list(planes.shape)} {planes.dtype}")
    if programs.dtype != torch.int32 or programs.dim() != 2:
        raise ValueError(f"programs: expected [B, L] int32, got {list(programs.shape)} {programs.dtype}")


def _run(planes: Tensor, program: list[int]) -> Tensor:
    stack: list[Tensor] = []
    for code in program:
        opcode, plane = code >> PLANE_BITS, planes[code & (1 << PLANE_BITS) - 1]
        match opcode:
            case Opcode.LOAD:
                stack.append(plane.clone())
            case Opcode.AND:
                stack[-1] &= plane
            case Opcode.OR:
                stack[-1] |= plane
            case Opcode.ANDNOT:
                stack[-1] &= ~plane
            case Opcode.STACK_AND:
                top = stack.pop()
                stack[-1] &= top
            case Opcode.STACK_OR:
                top = stack.pop()
                stack[-1] |= top
            case Opcode.STACK_NOT:
                stack[-1].bitwise_not_()
    (result,) = stack
    return result


_evaluate_programs = define(
    "evaluate_programs",
    reference,
    cpu=lazily("cpu.programs.launch"),
    cuda=lazily("gpu.programs.launch"),
    fake=lambda planes, programs: planes.new_empty(programs.shape[0], planes.shape[1]),
)
_count_passing = define(
    "count_passing",
    count_reference,
    cpu=lazily("cpu.programs.launch_count"),
    cuda=lazily("gpu.programs.launch_count"),
    fake=lambda planes, programs, slots: planes.new_empty(programs.shape[0]),
)
