"""Selecting inside kernels against NumPy's sort, with many ties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silverray.kernels.cpu.selection import LOWEST, flip, keep_best, kth_rank, sort_best

LARGEST = (1 << 31) - 1


def draw_ranks(data: st.DataObject, least: int) -> np.ndarray:
    rng = np.random.default_rng(data.draw(st.integers(0, 9999)))
    spread = data.draw(st.sampled_from([1, 2, 5, 100, 1 << 31]))
    values = rng.integers(-spread, spread, data.draw(st.integers(least, 400)))
    extremes = rng.random(len(values)) < data.draw(st.sampled_from([0, 0.1]))
    values[extremes] = rng.choice([LOWEST + 1, LARGEST], extremes.sum())
    return values.clip(LOWEST + 1, LARGEST).astype(np.int32)


def draw_slots(data: st.DataObject, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(data.draw(st.integers(0, 9999)))
    slots = rng.permutation(count + 50)[:count].astype(np.int32)
    return slots, rng.permutation(count + 50).astype(np.int64) * (1 << 52)


class Candidates:
    """Candidates as the kernels take them: in memory for a multiple of 16, by address."""

    def __init__(self, ranks: np.ndarray, slots: np.ndarray, keys: np.ndarray) -> None:
        self.count = len(ranks)
        self._padded = [np.full(self.count + 16, 99, np.int32) for _ in range(2)]
        self.ranks, self.slots = (padded[: self.count] for padded in self._padded)
        self.ranks[:], self.slots[:] = ranks, slots
        self._keys, self._spare = np.ascontiguousarray(keys, np.int64), np.empty(2 * self.count, np.int64)

    def keep(self, keep: int) -> tuple[int, int]:
        """Call `keep_best`."""
        kept: tuple[int, int] = keep_best(*self._addresses(), self.count, keep, self._keys.ctypes.data)
        return kept

    def sort(self) -> None:
        """Call `sort_best`."""
        sort_best(*self._addresses(), self.count, self._keys.ctypes.data, self._spare.ctypes.data)

    def _addresses(self) -> list[int]:
        return [padded.ctypes.data for padded in self._padded]


def test_ranks_are_in_the_order_of_their_floats_and_back() -> None:
    floats = np.array([-np.inf, -3e38, -1.0, -1e-45, 0.0, 1e-45, 1.0, 3e38, np.inf], dtype=np.float32)
    ranks = np.array([flip(bits) for bits in floats.view(np.int32)], dtype=np.int64)
    assert (np.diff(ranks) > 0).all()
    assert ranks[1] > LOWEST
    back = np.array([flip(np.int32(rank)) for rank in ranks], dtype=np.int32)
    np.testing.assert_array_equal(back.view(np.float32), floats)


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.data())
def test_kth_rank_parts_the_k_largest_from_the_others(data: st.DataObject) -> None:
    ranks = draw_ranks(data, 1)
    k = data.draw(st.integers(1, len(ranks)))
    before = ranks.copy()
    found = kth_rank(ranks, len(ranks), k)
    np.testing.assert_array_equal(ranks, before)
    kth = np.sort(ranks)[::-1][k - 1]
    assert found <= kth
    assert (ranks[ranks < kth] < found).all()


@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.data())
def test_keep_best_keeps_the_head_of_a_full_sort(data: st.DataObject) -> None:
    ranks = draw_ranks(data, 0)
    slots, keys = draw_slots(data, len(ranks))
    keep = data.draw(st.integers(0, len(ranks) + 3))
    order = np.lexsort((keys[slots], -ranks.astype(np.int64)))
    expected = set(zip(ranks[order[:keep]].tolist(), slots[order[:keep]].tolist(), strict=True))
    everything = sorted(zip(ranks.tolist(), slots.tolist(), strict=True))
    kth = ranks[order[keep - 1]] if 0 < keep <= len(ranks) else LOWEST + 1
    made = Candidates(ranks, slots, keys)
    count, threshold = made.keep(keep)
    assert count == min(keep, len(order))
    assert set(zip(made.ranks[:count].tolist(), made.slots[:count].tolist(), strict=True)) == expected
    assert threshold <= kth
    if count == keep:
        below = np.array([rank for rank, _ in everything if rank < kth])
        assert (below < threshold).all()


@settings(max_examples=100, derandomize=True, deadline=None)
@given(st.data())
def test_sort_best_sorts_by_rank_then_key(data: st.DataObject) -> None:
    ranks = draw_ranks(data, 0)
    slots, keys = draw_slots(data, len(ranks))
    order = np.lexsort((keys[slots], -ranks.astype(np.int64)))
    expected = ranks[order].copy(), slots[order].copy()
    made = Candidates(ranks, slots, keys)
    made.sort()
    np.testing.assert_array_equal(made.ranks, expected[0])
    np.testing.assert_array_equal(made.slots, expected[1])


@pytest.mark.parametrize("keep", [1, 500, 999, 1000])
def test_equal_ranks_are_kept_by_key_whatever_the_order_of_the_keys(keep: int) -> None:
    for keys in (np.arange(1000), np.arange(1000)[::-1].copy(), np.random.default_rng(0).permutation(1000)):
        made = Candidates(np.full(1000, 7, np.int32), np.arange(1000, dtype=np.int32), keys)
        assert made.keep(keep) == (keep, 7)
        assert sorted(keys[made.slots[:keep]]) == list(range(keep))
