"""Every kernel against an independent evaluation in NumPy or plain Python."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from silverray.kernels.bits import count_ranges, popcount, range_bits, read_bits, set_bits, transpose_bits, words_for
from silverray.kernels.codes import quantize_rows
from silverray.kernels.programs import Opcode, evaluate_programs, instruction
from silverray.kernels.scan import scan
from silverray.kernels.scores import exact_scores, halving_sum
from silverray.kernels.topk import ragged_top_k, top_k

SIZES = [1, 63, 64, 65, 127, 1009]


def pack(bits: np.ndarray) -> torch.Tensor:
    """`[rows, n]` bool to int64 words."""
    padded = np.zeros((len(bits), words_for(bits.shape[1]) * 64), dtype=np.uint8)
    padded[:, : bits.shape[1]] = bits
    return torch.from_numpy(np.packbits(padded, axis=1, bitorder="little").view(np.int64))


def unpack(words: torch.Tensor, n: int) -> np.ndarray:
    flat = np.unpackbits(words.numpy().view(np.uint8), axis=1, bitorder="little")
    return flat[:, :n].astype(bool)


@pytest.mark.parametrize("n", SIZES)
def test_bits_are_transposed_counted_listed_and_read(n: int) -> None:
    rng = np.random.default_rng(n)
    for width in (1, 64, 70):
        for bits in (rng.random((n, width)) < 0.4, np.ones((n, width), bool), np.zeros((n, width), bool)):
            planes = transpose_bits(pack(bits), width)
            np.testing.assert_array_equal(unpack(planes, n), bits.T)
            assert popcount(planes).sum() == bits.sum()
            cuts = np.sort(rng.integers(0, n + 1, 9))
            offsets = torch.from_numpy(np.concatenate([[0], cuts, [n]]))
            expected = [[row[a:b].sum() for a, b in itertools.pairwise(offsets)] for row in bits.T]
            np.testing.assert_array_equal(count_ranges(planes, offsets), expected)
            chosen = rng.random((3, len(offsets) - 1)) < 0.5
            wanted = np.repeat(chosen, np.diff(offsets), axis=1)
            ranged = range_bits(torch.from_numpy(chosen), offsets, words_for(n) + 1)
            np.testing.assert_array_equal(unpack(ranged, n), wanted)
            assert popcount(ranged).sum() == wanted.sum()
            rows, slots = np.nonzero(bits.T)
            listed = set_bits(planes)
            np.testing.assert_array_equal(listed.rows, rows)
            np.testing.assert_array_equal(listed.slots, slots)
            everything = read_bits(planes, torch.arange(width)[:, None], torch.arange(n))
            np.testing.assert_array_equal(everything, bits.T)


def test_popcount_of_the_portable_form_agrees_on_every_sign() -> None:
    words = torch.tensor([0, 1, -1, 1 << 62, -(1 << 63), 0x5555555555555555])
    from silverray.kernels.bits import _popcount

    assert popcount(words).tolist() == [0, 1, 64, 1, 1, 32]
    assert _popcount._init_fn(words).tolist() == [0, 1, 64, 1, 1, 32]


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.data())
def test_programs_do_what_a_boolean_evaluation_does(data: st.DataObject) -> None:
    n, planes = data.draw(st.sampled_from(SIZES)), 5
    bits = np.random.default_rng(n).random((planes, n)) < 0.5
    plane = st.integers(0, planes - 1)
    code, stack = [instruction(Opcode.LOAD, first := data.draw(plane))], [bits[first]]
    for _ in range(data.draw(st.integers(0, 20))):
        choices = [Opcode.AND, Opcode.OR, Opcode.ANDNOT, Opcode.STACK_NOT, Opcode.LOAD]
        opcode = data.draw(st.sampled_from(choices + ([Opcode.STACK_AND, Opcode.STACK_OR] if len(stack) > 1 else [])))
        operand = data.draw(plane) if opcode <= Opcode.ANDNOT else 0
        code.append(instruction(opcode, operand))
        if opcode == Opcode.LOAD:
            stack.append(bits[operand])
        elif opcode in (Opcode.STACK_AND, Opcode.STACK_OR):
            top = stack.pop()
            stack[-1] = stack[-1] & top if opcode == Opcode.STACK_AND else stack[-1] | top
        else:
            top = stack.pop()
            results = {Opcode.AND: top & bits[operand], Opcode.OR: top | bits[operand]}
            results |= {Opcode.ANDNOT: top & ~bits[operand], Opcode.STACK_NOT: ~top}
            stack.append(results[opcode])
    while len(stack) > 1:
        code.append(instruction(Opcode.STACK_OR))
        top = stack.pop()
        stack[-1] = stack[-1] | top
    programs = torch.tensor([[*code, 0, 0], [*code, 0, 0]], dtype=torch.int32)
    found = unpack(evaluate_programs(pack(bits), programs), n)
    np.testing.assert_array_equal(found, np.stack([stack[0], stack[0]]))


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.data())
def test_top_k_is_the_head_of_a_full_sort(data: st.DataObject) -> None:
    rows, n, k = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 40)), data.draw(st.integers(0, 50))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    scores = rng.choice([1.0, 2.0, -3.0, 0.5, -np.inf], size=(rows, n)).astype(np.float32)
    keys = np.stack([rng.permutation(n) for _ in range(rows)]) if rows else np.zeros((0, n), np.int64)
    found = top_k(torch.from_numpy(scores), torch.from_numpy(keys).long(), k)
    for row in range(rows):
        order = [place for place in np.lexsort((keys[row], -scores[row])) if scores[row, place] > -np.inf][:k]
        assert found.places[row].tolist() == order + [-1] * (k - len(order))
        assert found.scores[row].tolist() == [scores[row, p] for p in order] + [-np.inf] * (k - len(order))
    lengths = rng.integers(0, n + 1, rows)
    flat_rows = torch.from_numpy(np.repeat(np.arange(rows), lengths))
    flat = [np.concatenate([a[r, :m] for r, m in enumerate(lengths)] or [a[:0].ravel()]) for a in (scores, keys)]
    ragged = ragged_top_k(torch.from_numpy(flat[0]), torch.from_numpy(flat[1]).long(), flat_rows, rows, k)
    for row, length in enumerate(lengths):
        alone = top_k(torch.from_numpy(scores[row : row + 1, :length]), torch.from_numpy(keys[row, :length]).long(), k)
        assert ragged.scores[row].tolist() == alone.scores[0].tolist()
        shifted = torch.where(alone.places[0] >= 0, alone.places[0] + int(lengths[:row].sum()), -1)
        assert ragged.places[row].tolist() == shifted.tolist()


@pytest.mark.parametrize("d", [1, 2, 50, 128, 1000])
def test_exact_scores_are_the_same_bit_for_bit_in_any_batch_and_near_the_true_product(d: int) -> None:
    generator = torch.Generator().manual_seed(d)
    vectors, queries = torch.randn(300, d, generator=generator), torch.randn(7, d, generator=generator)
    rows = torch.arange(7).repeat_interleave(300)
    slots = torch.arange(300).repeat(7)
    scores = exact_scores(vectors, queries, rows, slots)
    true = (queries.double() @ vectors.double().T).flatten()
    bound = d * 2**-23 * (queries.abs().double() @ vectors.abs().double().T).flatten()
    assert ((scores - true).abs() <= bound).all()
    for pair in (0, 299, 300, 2099):
        assert exact_scores(vectors, queries, rows[pair : pair + 1], slots[pair : pair + 1])[0] == scores[pair]
    assert exact_scores(vectors, queries, rows[:1], torch.tensor([-1]))[0] == -torch.inf
    assert halving_sum(torch.tensor([[1.0, 2.0, 4.0]])).tolist() == [7.0]


def test_codes_restore_rows_to_half_a_step_and_zeros_exactly() -> None:
    rows = torch.randn(100, 33, generator=torch.Generator().manual_seed(0))
    rows[7] = 0
    rows[8] = 1e-42
    codes = quantize_rows(rows)
    restored = codes.values.float() * codes.scales[:, None]
    assert ((restored - rows).abs() <= codes.scales[:, None] * 0.5001 + 1e-37).all()
    assert codes.values[7].abs().sum() == 0
    assert codes.values.abs().max() == 127


@pytest.mark.parametrize("d", [3, 64, 1500])
def test_scan_agrees_with_a_loop_over_slots(d: int) -> None:
    rng = np.random.default_rng(d)
    n, clusters, batch, keep = 257, 9, 5, 20
    codes = rng.integers(-127, 128, (n, d)).astype(np.int8)
    queries = rng.integers(-127, 128, (batch, d)).astype(np.int8)
    scales, steps = rng.random(n).astype(np.float32), rng.random(batch).astype(np.float32)
    offsets = np.sort(np.concatenate([[0, 0, n], rng.integers(0, n + 1, clusters - 2)]))
    probes = np.stack([rng.permutation(clusters)[:4] for _ in range(batch)])
    probes[0, 2:] = -1
    probes[1] = -1
    base = rng.normal(size=probes.shape).astype(np.float32)
    bits = rng.random((batch, n)) < 0.6
    keys = rng.permutation(n)
    found = scan(
        torch.from_numpy(codes), torch.from_numpy(scales), torch.from_numpy(keys), torch.from_numpy(offsets),
        pack(bits), torch.from_numpy(queries), torch.from_numpy(steps), torch.from_numpy(probes),
        torch.from_numpy(base), keep,
    )  # fmt: skip
    for q in range(batch):
        expected = []
        for probe, start in zip(probes[q], base[q], strict=True):
            for slot in range(*(offsets[probe : probe + 2] if probe >= 0 else (0, 0))):
                if bits[q, slot]:
                    dot = int(queries[q].astype(int) @ codes[slot].astype(int))
                    expected.append(
                        (-(start + np.float32(steps[q] * scales[slot]) * np.float32(dot)), keys[slot], slot)
                    )
        expected.sort()
        slots = [slot for _, _, slot in expected[:keep]]
        assert found.places[q].tolist() == slots + [-1] * (keep - len(slots))
        np.testing.assert_allclose(found.scores[q, : len(slots)], [-e[0] for e in expected[:keep]], rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: top_k(torch.zeros(3), torch.zeros(3).long(), 1), "scores: expected"),
        (lambda: top_k(torch.zeros(1, 3), torch.zeros(1, 2).long(), 1), "keys: expected"),
        (lambda: top_k(torch.zeros(1, 3), torch.zeros(1, 3).long(), -1), "k: expected"),
        (lambda: evaluate_programs(torch.zeros(2, 2), torch.zeros(1, 1).int()), "planes: expected"),
        (lambda: evaluate_programs(torch.zeros(2, 2).long(), torch.zeros(1, 1)), "programs: expected"),
        (lambda: quantize_rows(torch.zeros(2, 2).double()), "rows: expected"),
        (lambda: transpose_bits(torch.zeros(2, 2).long(), 64), "rows: expected"),
        (
            lambda: exact_scores(torch.zeros(2, 2), torch.zeros(1, 3), torch.zeros(1), torch.zeros(1)),
            "queries: exp",
        ),
        (
            lambda: exact_scores(torch.zeros(2, 2), torch.zeros(1, 2), torch.zeros(1), torch.zeros(2)),
            "slots: expect",
        ),
    ],
)
def test_wrong_shapes_and_types_are_refused_by_name(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()


def test_ops_pass_torchs_own_checks_of_registered_operators() -> None:
    words = torch.tensor([[5, -1]])
    torch.library.opcheck(torch.ops.silverray.popcount.default, (words,))
    torch.library.opcheck(torch.ops.silverray.top_k.default, (torch.rand(2, 9), torch.arange(18).view(2, 9), 3))
    programs = torch.tensor([[instruction(Opcode.LOAD, 0)]], dtype=torch.int32)
    torch.library.opcheck(torch.ops.silverray.evaluate_programs.default, (words, programs))
    pairs = torch.tensor([0, 1])
    torch.library.opcheck(torch.ops.silverray.exact_scores.default, (torch.rand(2, 4), torch.rand(2, 4), pairs, pairs))
