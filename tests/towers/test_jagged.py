"""Lists in flat arrays."""

import numpy as np

from silverray.shard.towers.jagged import Jagged

LISTS = [[1, 2, 3], [], [4], [5, 6], []]


def of(lists: list[list[int]]) -> Jagged:
    values = np.array([value for own in lists for value in own], dtype=np.int64)
    return Jagged.of_lengths(values, np.array([len(own) for own in lists]))


def lists_of(jagged: Jagged) -> list[list[int]]:
    return [jagged.values[a:b].tolist() for a, b in zip(jagged.offsets, jagged.offsets[1:], strict=False)]


def test_round_trip() -> None:
    assert lists_of(of(LISTS)) == LISTS
    assert len(of(LISTS)) == 5
    assert lists_of(of([])) == []


def test_take_repeats_and_reorders() -> None:
    assert lists_of(of(LISTS).take(np.array([3, 1, 0, 3]))) == [[5, 6], [], [1, 2, 3], [5, 6]]
    assert lists_of(of(LISTS).take(np.array([], dtype=np.int64))) == []


def test_latest_keeps_the_ends() -> None:
    assert lists_of(of(LISTS).latest(2)) == [[2, 3], [], [4], [5, 6], []]
    assert lists_of(of(LISTS).latest(9)) == LISTS


def test_where_leaves_values_out() -> None:
    jagged = of(LISTS)
    assert lists_of(jagged.where(jagged.values % 2 == 0)) == [[2], [], [4], [6], []]


def test_concat() -> None:
    assert lists_of(Jagged.concat([of(LISTS), of([[7]])])) == [*LISTS, [7]]


def test_values_can_be_rows() -> None:
    jagged = Jagged(np.arange(6).reshape(3, 2), np.array([0, 2, 3]))
    assert jagged.take(np.array([1, 0])).values.tolist() == [[4, 5], [0, 1], [2, 3]]
