"""How many queries are worked on at a time, learned from how long they take."""

from __future__ import annotations

_LEAST_CUT, _LARGEST_CUT = 0.9, 0.5
"""What is left of the limit after a slow answer: less than a half would starve the shards for one hiccup, and more than
nine tenths would take dozens of slow answers to get out of an overload."""
_STEP = 1.0
"""Queries more for an answer in time, as in TCP's additive increase: the limit doubles in as many answers."""


class Concurrency:
    """A limit that grows while it is met and answers come soon, and shrinks when they do not.

    More queries at a time make larger batches, until the shards' time is used up and more only wait longer. Where that
    is depends on the catalog, k, the machine and what else it does, so it is not configured: the limit grows by a
    query for each answer in time, and is cut for a slow one by as much as that was slower (a tenth to a half), at most
    once in the time that it took.

    Args:
        target_s: how long an answer may take from when its work begins.
        least: lowest limit.
        start: first limit.
        most: highest limit.
    """

    def __init__(self, target_s: float, *, least: int, start: int, most: int) -> None:
        self._target_s = target_s
        self._least, self._most = min(least, most), most
        self._limit = float(min(start, most))
        self._cut_at = float("-inf")

    @property
    def limit(self) -> int:
        """Queries at a time."""
        return int(self._limit)

    def expect(self, target_s: float) -> None:
        """Change how long an answer may take."""
        self._target_s = target_s

    def learn(self, began: float, ended: float, *, full: bool) -> None:
        """Take notice of an answer.

        Args:
            began: when its work began.
            ended: when it ended.
            full: whether the limit was met meanwhile; only then does a quick answer say that there is room.
        """
        if ended - began <= self._target_s:
            if full:
                self._limit = min(self._limit + _STEP, self._most)
        elif began >= self._cut_at:  # what began before the last cut tells of the time before it
            cut = min(max(self._target_s / (ended - began), _LARGEST_CUT), _LEAST_CUT)
            self._limit = max(cut * self._limit, self._least)
            self._cut_at = ended
