"""What a router counts and measures, in bounded memory."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from typing import Any

from silverray.shard.api import SearchError, SearchReply

_FLOOR = 1e-5
"""10 µs: no request is answered sooner, so that buckets below would stay empty."""
_RATIO = 1.05
"""A quantile is told too high by 5 % at most; finer buckets would make status replies longer."""
_BUCKETS = 400
"""Up to 48 minutes, far beyond any deadline; 3 KB a histogram."""

MAX_TRIMMED_NAMES = 1_000
"""Clients choose the names: a bound on what they can make a router keep, far above what a tower has."""
MAX_NAME = 100
"""Characters of such a name that are kept, likewise; with both bounds they are 100 KB."""
OTHER_NAMES = "(other)"


class Histogram:
    """Counts of durations in buckets whose edges grow by 5 %, from 10 µs to about an hour."""

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self._max = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration; what is below 10 µs, or negative, counts as none."""
        bucket = 0 if seconds < _FLOOR else 1 + int(math.log(seconds / _FLOOR) / math.log(_RATIO))
        self._counts[min(bucket, _BUCKETS - 1)] += 1
        self._max = max(self._max, seconds)

    @property
    def count(self) -> int:
        """Durations recorded."""
        return sum(self._counts)

    def quantile(self, q: float) -> float:
        """The least bucket edge, in seconds, that a fraction q of the durations is below; 0 when empty."""
        rank, seen = math.ceil(q * self.count), 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if seen >= rank:
                return min(_edge(bucket), self._max)
        return self._max

    def to_document(self) -> dict[str, Any]:
        """Count, quantiles and maximum in milliseconds, and the filled buckets as `[upper edge, count]`.

        The counts never fall: the difference of two documents is the distribution of the time between them.
        """
        quantiles = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}
        return {
            "count": self.count,
            **{name: round(self.quantile(q) * 1e3, 3) for name, q in quantiles.items()},
            "max": round(self._max * 1e3, 3),
            "buckets": [[round(_edge(bucket) * 1e3, 6), count] for bucket, count in enumerate(self._counts) if count],
        }


def _edge(bucket: int) -> float:
    return _FLOOR * _RATIO**bucket if bucket else 0.0


class RouterMetrics:
    """Counters and histograms of one router since it started.

    Attributes:
        latency: from receiving a request to its answer having left.
        lateness: how long after its deadline an answer left; 0 for one in time.
    """

    def __init__(self) -> None:
        self.latency = Histogram()
        self.lateness = Histogram()
        self._requests = 0
        self._replies = 0
        self._degraded = 0
        self._errors: Counter[str] = Counter()
        self._batches: Counter[int] = Counter()
        self._trimmed: Counter[str] = Counter()

    def answered(self, outcome: SearchReply | SearchError) -> None:
        """Count one request by its outcome."""
        self._requests += 1
        if isinstance(outcome, SearchError):
            self._errors[outcome.code] += 1
            return
        self._replies += 1
        self._degraded += outcome.coverage.degraded

    def left(self, now: float, received: float, deadline: float) -> None:
        """Note when an answer left; all times on the clock of `time.monotonic`."""
        self.latency.record(now - received)
        self.lateness.record(max(0.0, now - deadline))

    def sent(self, batch: int) -> None:
        """Count a batch of so many requests that went to the shards."""
        self._batches[batch] += 1

    def trimmed(self, names: Iterable[str]) -> None:
        """Count user features that nothing reads, by name; names past the first `MAX_TRIMMED_NAMES` share one.

        Names of more than `MAX_NAME` characters are cut.
        """
        for name in (name[:MAX_NAME] for name in names):
            room = name in self._trimmed or len(self._trimmed) < MAX_TRIMMED_NAMES
            self._trimmed[name if room else OTHER_NAMES] += 1

    def to_document(self) -> dict[str, Any]:
        """Everything, as it stands in a status reply."""
        batches = self._batches.total()
        return {
            "requests": self._requests,
            "replies": self._replies,
            "degraded": self._degraded,
            "errors": dict(self._errors),
            "trimmed_features": dict(self._trimmed),
            "batches": {
                "count": batches,
                "mean_size": round(sum(size * n for size, n in self._batches.items()) / max(batches, 1), 2),
                "max_size": max(self._batches, default=0),
            },
            "latency_ms": self.latency.to_document(),
            "lateness_ms": self.lateness.to_document(),
        }
