"""The smallest setting that reaches a recall, so that contenders are compared at equal quality."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

PRECISION = 32
"""Settings are told apart down to one part in so many."""


class Tuned(NamedTuple):
    """A setting and the recall that it gives; `reached` says whether that is the recall asked for."""

    setting: int
    recall: float
    reached: bool


def smallest_setting(recall_at: Callable[[int], float], target: float, least: int, most: int) -> Tuned:
    """Find the smallest setting in `least` … `most` whose recall is at least the target, assuming it never falls.

    Args:
        recall_at: measures the recall at a setting.
        target: the recall to reach.
        least: smallest setting.
        most: largest setting.

    Returns:
        The setting, within 1/32 of the smallest; `most` where even that does not reach the target.
    """
    low, high = least - 1, least
    while (recall := recall_at(high)) < target:
        if high == most:
            return Tuned(most, recall, reached=False)
        low, high = high, min(2 * high, most)
    best = Tuned(high, recall, reached=True)
    while best.setting - low > max(1, best.setting // PRECISION):
        middle = (low + best.setting) // 2
        recall = recall_at(middle)
        if recall >= target:
            best = Tuned(middle, recall, reached=True)
        else:
            low = middle
    return best
