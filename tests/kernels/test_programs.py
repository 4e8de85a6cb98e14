"""Plane programs: the reference against a boolean evaluation, the kernel against the reference."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from silverray.kernels.programs import (
    MAX_STACK,
    Opcode,
    count_passing,
    count_reference,
    evaluate_programs,
    instruction,
    reference,
)

from .cases import THREADS, encode, make_lists, pack, threads, unpack

SIZES = [1, 63, 64, 65, 511, 512, 513, 4095, 4097, 32_767, 32_769, 65_536, 100_003]
"""Slots; the kernel works on blocks of 512 words, 32,768 slots."""


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.data())
def test_programs_do_what_a_boolean_evaluation_does(data: st.DataObject) -> None:
    n, planes = data.draw(st.sampled_from(SIZES[:7])), 5
    bits = np.random.default_rng(n).random((planes, n)) < 0.5
    plane = st.integers(0, planes - 1)
    code, stack = [(Opcode.LOAD, first := data.draw(plane))], [bits[first]]
    for _ in range(data.draw(st.integers(0, 30))):
        choices = [Opcode.AND, Opcode.OR, Opcode.ANDNOT, Opcode.STACK_NOT, Opcode.NOP]
        choices += [Opcode.LOAD] * 3 if len(stack) < MAX_STACK else []
        choices += [Opcode.STACK_AND, Opcode.STACK_OR] if len(stack) > 1 else []
        code.append((data.draw(st.sampled_from(choices)), data.draw(plane)))
        step(stack, bits, *code[-1])
    while len(stack) > 1:
        code.append((Opcode.STACK_OR, 0))
        step(stack, bits, *code[-1])
    programs = encode([code, code, [(Opcode.LOAD, 0)]])
    expected = np.stack([stack[0], stack[0], bits[0]])
    np.testing.assert_array_equal(unpack(evaluate_programs(pack(bits), programs), n), expected)
    np.testing.assert_array_equal(unpack(reference(pack(bits), programs), n), expected)
    np.testing.assert_array_equal(count_passing(pack(bits), programs, n), expected.sum(1))


def step(stack: list[np.ndarray], bits: np.ndarray, opcode: Opcode, plane: int) -> None:
    match opcode:
        case Opcode.LOAD:
            stack.append(bits[plane])
        case Opcode.AND:
            stack[-1] = stack[-1] & bits[plane]
        case Opcode.OR:
            stack[-1] = stack[-1] | bits[plane]
        case Opcode.ANDNOT:
            stack[-1] = stack[-1] & ~bits[plane]
        case Opcode.STACK_AND:
            top = stack.pop()
            stack[-1] = stack[-1] & top
        case Opcode.STACK_OR:
            top = stack.pop()
            stack[-1] = stack[-1] | top
        case Opcode.STACK_NOT:
            stack[-1] = ~stack[-1]


@pytest.mark.parametrize("spare", [0, 1, 9])
@pytest.mark.parametrize("n", SIZES)
def test_the_kernel_agrees_with_the_reference(n: int, spare: int) -> None:
    lists = make_lists(n, 1, seed=n, spare_words=spare)
    for number in THREADS:
        with threads(number):
            found = evaluate_programs(lists.planes, lists.programs)
            assert found.is_contiguous()
            assert torch.equal(found, reference(lists.planes, lists.programs))
            for slots in {0, 1, n // 2, n - 1, n, 64 * lists.planes.shape[1]}:
                expected = count_reference(lists.planes, lists.programs, slots)
                assert torch.equal(count_passing(lists.planes, lists.programs, slots), expected)


def test_the_longest_program_and_a_batch_of_many_are_run() -> None:
    planes = torch.randint(-(1 << 62), 1 << 62, (3, 20), generator=torch.Generator().manual_seed(0))
    long = [(Opcode.LOAD, 0)] + [(Opcode.STACK_NOT, 0), (Opcode.ANDNOT, 2)] * 511
    programs = encode([long, [(Opcode.LOAD, 1)]]).repeat(50, 1)
    assert torch.equal(evaluate_programs(planes, programs), reference(planes, programs))


def test_no_words_and_no_programs_give_empty_results() -> None:
    program = torch.tensor([[instruction(Opcode.LOAD, 0)]], dtype=torch.int32)
    assert evaluate_programs(torch.zeros(1, 0, dtype=torch.int64), program).shape == (1, 0)
    assert count_passing(torch.zeros(1, 0, dtype=torch.int64), program, 0).tolist() == [0]
    assert evaluate_programs(torch.zeros(1, 3, dtype=torch.int64), program[:0]).shape == (0, 3)
    assert count_passing(torch.zeros(1, 3, dtype=torch.int64), program[:0], 9).shape == (0,)


@pytest.mark.parametrize("words", [3, 8, 16])
def test_planes_and_programs_may_be_views_of_larger_tensors(words: int) -> None:
    lists = make_lists(64 * 40, 1, seed=1)
    plain = lists.planes[:, :words].contiguous()
    wide = torch.cat([lists.programs, lists.programs], dim=1)[:, : lists.programs.shape[1]]
    odd = torch.zeros(2 * len(lists.planes), 2 * words, dtype=torch.int64)[::2, ::2].copy_(plain)
    shifted = torch.zeros(len(plain), words + 8, dtype=torch.int64)[:, 1 : words + 1].copy_(plain)
    expected = reference(plain, lists.programs)
    for view in (lists.planes[:, :words], odd, shifted):
        assert torch.equal(evaluate_programs(view, wide), expected)
        assert torch.equal(count_passing(view, wide, 64 * words - 1), count_reference(plain, wide, 64 * words - 1))
