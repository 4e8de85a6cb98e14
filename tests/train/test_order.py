"""The window shuffle: a permutation, bounded, other in each epoch."""

import numpy as np
import pytest
from numpy.typing import NDArray

from silverray.shard.train.order import WindowShuffle


def order(window: int, *, seed: int = 0, epoch: int = 0, sizes: tuple[int, ...] = (400, 1, 599)) -> NDArray[np.int64]:
    shuffle = WindowShuffle(window, seed, epoch)
    firsts = np.cumsum([0, *sizes])
    keys = [shuffle.keys(number, firsts[number], size) for number, size in enumerate(sizes)]
    return np.argsort(np.concatenate(keys), kind="stable")


@pytest.mark.parametrize("window", [1, 2, 63, 1_000, 5_000])
def test_no_row_moves_as_far_as_the_window(window: int) -> None:
    shuffled = order(window)
    assert sorted(shuffled.tolist()) == list(range(1_000))
    moved = np.abs(shuffled - np.arange(1_000))
    assert moved.max() < window
    assert window == 1 or moved.mean() > min(window, 1_000) / 10


def test_rows_before_first_row_stand_before_the_place() -> None:
    shuffled, shuffle = order(64), WindowShuffle(64, 0, 0)
    for place in range(1_000):
        assert shuffled[place:].min() >= shuffle.first_row(place)


def test_seed_and_epoch_decide() -> None:
    assert order(64).tolist() == order(64).tolist()
    assert order(64).tolist() != order(64, epoch=1).tolist()
    assert order(64).tolist() != order(64, seed=1).tolist()
    assert order(1).tolist() == list(range(1_000))
