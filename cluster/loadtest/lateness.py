"""How late answers left the server, counted from the routers' own measurements before and after a load."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

_ASKS_PER_ROUTER = 8
"""Were each question answered by a router at random, one router in 3,000 would be missed: e^-8."""
_TIMEOUT_S = 5.0
"""A router waits up to 2 s for each part of its status that does not answer, and there are three."""

Buckets = dict[float, int]


@dataclass(frozen=True, slots=True)
class Lateness:
    """Distribution of how long after their deadline answers left.

    Attributes:
        count: answers that were measured.
        p99_9_ms: quantile in milliseconds, as an upper bound of at most 5 % above it.
        max_ms: the latest; likewise.
    """

    count: int
    p99_9_ms: float
    max_ms: float


class LatenessProbe:
    """Reads the routers' counts when made, and the difference when asked.

    Several routers share an address, so each probe asks a few times and keeps what each router said last.

    Args:
        url: where the service answers.
        routers: number of routers behind it.
    """

    def __init__(self, url: str, routers: int = 1) -> None:
        self._url = url
        self._asks = 1 if routers == 1 else _ASKS_PER_ROUTER * routers
        self._before = self._read()

    def measure(self) -> Lateness | None:
        """The distribution since the probe was made; None where the service does not tell."""
        if self._before is None or (after := self._read()) is None:
            return None
        gained: Buckets = {}
        for router, buckets in after.items():
            before = self._before.get(router, {})
            for edge, count in buckets.items():
                gained[edge] = gained.get(edge, 0) + max(0, count - before.get(edge, 0))
        return summarise({edge: count for edge, count in sorted(gained.items()) if count})

    def _read(self) -> dict[str, Buckets] | None:
        said: dict[str, Buckets] = {}
        # Each request on its own connection: the balancer keeps a connection with one router.
        for _ in range(self._asks):
            try:
                document = httpx.get(f"{self._url}/v1/status", timeout=_TIMEOUT_S, trust_env=False).json()
                said[str(document.get("router"))] = _buckets(document)
            except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
                return None
        return said


def summarise(buckets: Mapping[float, int]) -> Lateness:
    """Quantiles of `{upper edge in ms: count}`, edges ascending."""
    count = sum(buckets.values())
    rank, seen = math.ceil(0.999 * count), 0
    quantile = 0.0
    for edge, number in buckets.items():
        if seen < rank:
            quantile = edge
        seen += number
    return Lateness(count, quantile, max(buckets, default=0.0))


def _buckets(document: dict[str, Any]) -> Buckets:
    buckets: Buckets = {}
    for edge, count in document["lateness_ms"]["buckets"]:  # the finest edges are equal once rounded
        buckets[edge] = buckets.get(edge, 0) + count
    return buckets
