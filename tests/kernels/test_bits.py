"""Bit planes against NumPy's own packing."""

import itertools

import numpy as np
import pytest
import torch

from silverray.kernels.bits import (
    _popcount_reference,
    count_ranges,
    pack_bits,
    popcount,
    range_bits,
    read_bits,
    set_bits,
    transpose_bits,
    words_for,
)

from .cases import pack, unpack

SIZES = [1, 63, 64, 65, 127, 1009]


def masks(rng: np.random.Generator, shape: tuple[int, int]) -> list[np.ndarray]:
    return [rng.random(shape) < 0.4, rng.random(shape) < 0.01, np.ones(shape, bool), np.zeros(shape, bool)]


@pytest.mark.parametrize("width", [1, 64, 70])
@pytest.mark.parametrize("n", SIZES)
def test_transposing_turns_rows_of_items_into_planes(n: int, width: int) -> None:
    for bits in masks(np.random.default_rng(n), (n, width)):
        np.testing.assert_array_equal(unpack(transpose_bits(pack(bits), width), n), bits.T)


@pytest.mark.parametrize("n", SIZES)
def test_ranges_are_counted_and_set(n: int) -> None:
    rng = np.random.default_rng(n)
    offsets = torch.from_numpy(np.concatenate([[0], np.sort(rng.integers(0, n + 1, 9)), [n]]))
    for bits in masks(rng, (3, n)):
        expected = [[row[a:b].sum() for a, b in itertools.pairwise(offsets)] for row in bits]
        np.testing.assert_array_equal(count_ranges(pack(bits), offsets), expected)
        chosen = rng.random((3, len(offsets) - 1)) < 0.5
        wanted = np.repeat(chosen, np.diff(offsets), axis=1)
        found = range_bits(torch.from_numpy(chosen), offsets, words_for(n) + 1)
        np.testing.assert_array_equal(unpack(found, n), wanted)
        assert popcount(found).sum() == wanted.sum()


@pytest.mark.parametrize("n", SIZES)
def test_set_bits_are_listed_in_order_read_and_packed_again(n: int) -> None:
    for bits in masks(np.random.default_rng(n), (5, n)):
        planes = pack(bits)
        rows, slots = np.nonzero(bits)
        listed = set_bits(planes)
        np.testing.assert_array_equal(listed.rows, rows)
        np.testing.assert_array_equal(listed.slots, slots)
        np.testing.assert_array_equal(read_bits(planes, torch.arange(5)[:, None], torch.arange(n)), bits)
        shuffled = torch.randperm(len(slots), generator=torch.Generator().manual_seed(0))
        packed = pack_bits(listed.rows[shuffled], listed.slots[shuffled], 5, words_for(n))
        np.testing.assert_array_equal(packed, planes)


def test_popcount_and_its_portable_form_agree_on_every_sign() -> None:
    words = torch.tensor([0, 1, -1, 1 << 62, -(1 << 63), 0x5555555555555555])
    assert popcount(words).tolist() == [0, 1, 64, 1, 1, 32]
    assert _popcount_reference(words).tolist() == [0, 1, 64, 1, 1, 32]
