"""Plane programs on a CPU: instruction by instruction, over blocks of words that stay in the first-level cache.

Planes and results are rows of words whose length is a multiple of 8. Letters: U programs, L instructions, W words.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import carray, prange
from torch import Tensor

from silverray.kernels.cpu.jit import kernel, parallel_kernel
from silverray.kernels.cpu.launch import use_threads, workspace
from silverray.kernels.cpu.simd import (
    and_not_words,
    and_words,
    copy_words,
    count_bits,
    load_int32,
    not_words,
    or_words,
    pointer,
)
from silverray.kernels.programs import MAX_STACK, PLANE_BITS, Opcode
from silverray.kernels.rows import WORDS, aligned_planes

BLOCK = 512
"""Words of a block: 4 KiB."""
SCRATCH = MAX_STACK * BLOCK
"""Words that a worker needs to evaluate a block."""

_LOAD, _AND, _OR, _ANDNOT = int(Opcode.LOAD), int(Opcode.AND), int(Opcode.OR), int(Opcode.ANDNOT)
_STACK_AND, _STACK_OR, _STACK_NOT = int(Opcode.STACK_AND), int(Opcode.STACK_OR), int(Opcode.STACK_NOT)
_NOP, _VECTOR = int(Opcode.NOP), 8 * WORDS


def launch(planes: Tensor, programs: Tensor) -> Tensor:
    """Run the kernel of `silverray.kernels.programs.evaluate_programs`."""
    wide, programs, threads = aligned_planes(planes), programs.contiguous(), use_threads()
    bits = torch.empty(len(programs), wide.shape[1], dtype=torch.int64)
    (scratch,) = workspace(8 * threads * SCRATCH)
    evaluate_all(
        wide.data_ptr(), wide.shape[1], programs.data_ptr(), len(programs), programs.shape[1], bits.data_ptr(), scratch,
        threads,
    )  # fmt: skip
    return bits if bits.shape[1] == planes.shape[1] else bits[:, : planes.shape[1]].contiguous()


def launch_count(planes: Tensor, programs: Tensor, slots: int) -> Tensor:
    """Run the kernel of `silverray.kernels.programs.count_passing`."""
    wide, programs, threads = aligned_planes(planes), programs.contiguous(), use_threads()
    counts = torch.empty(len(programs), dtype=torch.int64)
    totals, scratch = workspace(8 * threads * len(programs), 8 * threads * SCRATCH)
    count_all(
        wide.data_ptr(), wide.shape[1], programs.data_ptr(), len(programs), programs.shape[1], slots, totals, scratch,
        threads, counts.data_ptr(),
    )  # fmt: skip
    return counts


@kernel
def run_program(planes, row, program, length, first, vectors, stack, level):
    """Evaluate a program on `vectors` · 8 words from word `first`; the result is the bottom of the stack.

    Args:
        planes: address of the planes, a multiple of 64; so are `row`, `stack` and `level`.
        row: bytes from plane to plane.
        program: address of `[L]` int32.
        length: L.
        first: a multiple of 8.
        vectors: how many vectors of 8 words.
        stack: address of the stack.
        level: bytes from one place of the stack to the next.
    """
    top = stack - level
    for at in range(length):
        code = np.int64(load_int32(program + 4 * at))
        opcode = code >> PLANE_BITS
        plane = planes + (code & ((1 << PLANE_BITS) - 1)) * row + 8 * first
        if opcode == _AND:
            for step in range(vectors):
                and_words(top + step * _VECTOR, plane + step * _VECTOR)
        elif opcode == _LOAD:
            top += level
            for step in range(vectors):
                copy_words(top + step * _VECTOR, plane + step * _VECTOR)
        elif opcode == _OR:
            for step in range(vectors):
                or_words(top + step * _VECTOR, plane + step * _VECTOR)
        elif opcode == _ANDNOT:
            for step in range(vectors):
                and_not_words(top + step * _VECTOR, plane + step * _VECTOR)
        elif opcode == _STACK_AND:
            top -= level
            for step in range(vectors):
                and_words(top + step * _VECTOR, top + level + step * _VECTOR)
        elif opcode == _STACK_OR:
            top -= level
            for step in range(vectors):
                or_words(top + step * _VECTOR, top + level + step * _VECTOR)
        elif opcode == _STACK_NOT:
            for step in range(vectors):
                not_words(top + step * _VECTOR, top + step * _VECTOR)


@kernel
def _evaluate_block(planes, words, programs, length, number, block, stack, bits):
    first = block * BLOCK
    size = min(BLOCK, words - first)
    run_program(planes, 8 * words, programs + 4 * length * number, length, first, size // WORDS, stack, 8 * BLOCK)
    target = bits + 8 * (number * words + first)
    for step in range(size // WORDS):
        copy_words(target + step * _VECTOR, stack + step * _VECTOR)


@parallel_kernel
def evaluate_all(planes, words, programs, count, length, bits, scratch, threads):
    """Evaluate all programs on all words into `bits`; arguments are addresses and sizes."""
    blocks = -(-words // BLOCK)
    for thread in prange(threads):
        for task in range(count * blocks * thread // threads, count * blocks * (thread + 1) // threads):
            stack = scratch + thread * 8 * SCRATCH
            _evaluate_block(planes, words, programs, length, task // blocks, task % blocks, stack, bits)


@kernel
def _count_block(planes, words, programs, length, number, block, stack, slots):
    first = block * BLOCK
    size = min(BLOCK, words - first)
    run_program(planes, 8 * words, programs + 4 * length * number, length, first, size // WORDS, stack, 8 * BLOCK)
    result = carray(pointer(stack), (size,), np.int64)
    whole = max(0, min(size, (slots >> 6) - first))
    total = np.int64(0)
    for word in range(whole):
        total += count_bits(result[word])
    if whole < size and first + whole == slots >> 6:
        total += count_bits(result[whole] & ((np.int64(1) << (slots & 63)) - 1))
    return total


@kernel
def count_all(planes, words, programs, number, length, slots, totals, scratch, threads, counts):
    """Count the slots that pass each program into `counts`; `totals` is `[threads, U]` int64 to work in."""
    _count_shares(planes, words, programs, number, length, slots, totals, scratch, threads)
    sums = carray(pointer(totals), (threads, number), np.int64)
    result = carray(pointer(counts), (number,), np.int64)
    for which in range(number):
        result[which] = sums[:, which].sum()


@parallel_kernel
def _count_shares(planes, words, programs, number, length, slots, totals, scratch, threads):
    sums = carray(pointer(totals), (threads, number), np.int64)
    blocks = -(-words // BLOCK)
    for thread in prange(threads):
        sums[thread, :] = 0
        for task in range(number * blocks * thread // threads, number * blocks * (thread + 1) // threads):
            stack = scratch + thread * 8 * SCRATCH
            which = task // blocks
            sums[thread, which] += _count_block(planes, words, programs, length, which, task % blocks, stack, slots)
