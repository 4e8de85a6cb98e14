"""Which impressions make up a request."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from silverray.shard.towers.jagged import Jagged

Ints = NDArray[np.int64]


class Groups(NamedTuple):
    """Rows in groups: those that no later row can belong to, and the rest.

    Attributes:
        closed: the rows of each closed group, ascending; groups in the order of their first rows.
        open: the other rows, ascending.
    """

    closed: Jagged
    open: Ints


def group(keys: Ints, times: Ints, span_s: int, *, complete: bool) -> Groups:
    """Gather the rows of one key that lie within `span_s` seconds of the first of them.

    Args:
        keys: `[n]` int64 from 0 to n - 1.
        times: `[n]` int64 seconds, ascending.
        span_s: a row so many seconds later, or more, begins another group.
        complete: no further rows follow; otherwise they may, with times of at least the last one here.

    Returns:
        The rows, by their numbers from 0 to n - 1.
    """
    rows = len(keys)
    # The first row, of any key, that is too late for a group which begins here.
    ends = np.searchsorted(times, times + span_s, side="left")
    order = np.argsort(keys, kind="stable")
    places = keys[order] * (rows + 1) + order
    begin = np.flatnonzero(np.diff(keys[order], prepend=-1))
    starts = [begin]
    while len(begin):
        first = order[begin]
        after = np.searchsorted(places, keys[first] * (rows + 1) + ends[first], side="left")
        known = np.minimum(after, rows - 1)
        begin = after[(after < rows) & (keys[order[known]] == keys[first])]
        starts.append(begin)
    groups = Jagged(order, np.append(np.sort(np.concatenate(starts)), rows))
    first = order[groups.offsets[:-1]]
    closed = np.full(len(first), True) if complete else ends[first] < rows
    by_first = np.argsort(first[closed], kind="stable")
    return Groups(groups.take(np.flatnonzero(closed)[by_first]), np.sort(groups.take(np.flatnonzero(~closed)).values))
