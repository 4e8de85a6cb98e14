"""Grouping by key and time against the definition, row by row."""

import numpy as np
import pytest
from numpy.typing import NDArray

from silverray.shard.train.grouping import group

Ints = NDArray[np.int64]


def by_definition(keys: Ints, times: Ints, span: int) -> list[list[int]]:
    groups: list[list[int]] = []
    current: dict[int, list[int]] = {}
    for row, (key, time) in enumerate(zip(keys.tolist(), times.tolist(), strict=True)):
        if key not in current or time >= times[current[key][0]] + span:
            current[key] = []
            groups.append(current[key])
        current[key].append(row)
    return groups


def lists(keys: Ints, times: Ints, span: int, *, complete: bool) -> tuple[list[list[int]], list[int]]:
    found = group(keys, times, span, complete=complete)
    closed = found.closed
    return [part.tolist() for part in np.split(closed.values, closed.offsets[1:-1])][: len(closed)], found.open.tolist()


@pytest.mark.parametrize("span", [1, 3, 50, 10_000])
@pytest.mark.parametrize("rows", [1, 2, 63, 500])
def test_agrees_with_the_definition(rows: int, span: int) -> None:
    rng = np.random.default_rng(rows + span)
    keys = np.unique(rng.integers(0, 9, rows), return_inverse=True)[1]
    times = np.sort(rng.integers(-100, 100, rows))
    wanted = by_definition(keys, times, span)
    assert lists(keys, times, span, complete=True) == (wanted, [])
    closed = [own for own in wanted if times[-1] >= times[own[0]] + span]
    waiting = sorted(row for own in wanted if own not in closed for row in own)
    assert lists(keys, times, span, complete=False) == (closed, waiting)


def test_nothing() -> None:
    empty = np.array([], dtype=np.int64)
    found = group(empty, empty, 10, complete=False)
    assert (len(found.closed), len(found.open)) == (0, 0)
