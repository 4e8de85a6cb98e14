"""Timing contenders side by side: A B C A B C …, so that a slow minute of the machine meets all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np


class Timing(NamedTuple):
    """Seconds that one contender took, round by round.

    Attributes:
        p20_s: a fifth of the rounds took less.
        p50_s: the median.
        p80_s: a fifth of the rounds took more.
        times: every round's seconds, in order.
    """

    p20_s: float
    p50_s: float
    p80_s: float
    times: tuple[float, ...]

    @classmethod
    def of(cls, times: Sequence[float]) -> Self:
        """Sum up the seconds of each round."""
        p20, p50, p80 = np.quantile(times, [0.2, 0.5, 0.8]).tolist()
        return cls(p20, p50, p80, tuple(times))

    def rates(self, units: float, name: str = "qps") -> dict[str, float]:
        """Units of work per second as the cells `NAME_p20`, `NAME_p50` and `NAME_p80` of a table's row."""
        p20, p50, p80 = np.quantile(units / np.array(self.times), [0.2, 0.5, 0.8]).tolist()
        return {f"{name}_p20": p20, f"{name}_p50": p50, f"{name}_p80": p80}

    def seconds(self, unit_s: float = 1e-6, name: str = "us", share: float = 1.0) -> dict[str, float]:
        """Times in units of `unit_s`, each divided by `share`, as the cells `NAME_p20`, `NAME_p50`, `NAME_p80`."""
        values = [value / unit_s / share for value in (self.p20_s, self.p50_s, self.p80_s)]
        return dict(zip((f"{name}_p20", f"{name}_p50", f"{name}_p80"), values, strict=True))


def interleave(
    contenders: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Call every contender once a round, in the order given.

    Args:
        contenders: what to time, by name.
        rounds: timed calls of each, at least 1.
        warmup: rounds that are not timed.
        clock: seconds; only differences count.

    Returns:
        The timing of each contender, in the same order.

    Raises:
        ValueError: no contender or no round.
    """
    if not contenders or rounds < 1:
        raise ValueError(f"contenders, rounds: expected at least one each, got {len(contenders)} and {rounds}")
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(-warmup, rounds):
        for name, call in contenders.items():
            began = clock()
            call()
            seconds = clock() - began
            if number >= 0:
                times[name].append(seconds)
    return {name: Timing.of(seconds) for name, seconds in times.items()}


def ratio(a: Timing, b: Timing) -> float:
    """How many times as long as b does a take: the median over the rounds of `a / b`.

    Raises:
        ValueError: they were not measured in the same rounds.
    """
    if len(a.times) != len(b.times):
        raise ValueError(f"timings: expected the same rounds, got {len(a.times)} and {len(b.times)}")
    return float(np.median(np.divide(a.times, b.times)))
