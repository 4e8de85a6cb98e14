"""The ladder of k: how many candidates a search looks at, in steps, so that an answer does not depend on its batch."""

from __future__ import annotations

from bisect import bisect_left

from silverray.shard.api import MAX_K

K_STEPS = (64, 100, 250, 1_000, 2_500, MAX_K)
"""Steps of k at which recall is measured when a catalog is published, and for which scans keep candidates."""
LEAST_CANDIDATES = 250
"""Of each task, where what is found is ranked: fewer would leave a scorer little to choose from."""


def coarse_keep(k: int) -> int:
    """How many candidates a scan keeps for the k best: 4 times the next step of k, 256 to 40,000."""
    return max(256, 4 * next(step for step in K_STEPS if k <= step))


def candidates_for(k: int, refine_all: bool) -> int:
    """How many items each task of a request finds, to be ranked.

    4 times k, in steps that double from 250; as many as a request may ever ask for where every visited item is to be
    scored exactly.
    """
    steps = max(0, (4 * k - 1) // LEAST_CANDIDATES).bit_length()
    return MAX_K if refine_all else min(LEAST_CANDIDATES << steps, MAX_K)


_RANKED = tuple((LEAST_CANDIDATES << double) // 4 for double in range(6))
STEPS = tuple(sorted({*K_STEPS, *_RANKED}))
"""Every k after which `coarse_keep` or `candidates_for` grows."""


def step_of(k: int) -> int:
    """The largest k that is searched exactly as this one is: requests of one step can share a batch.

    Example:
        >>> step_of(10), step_of(20), step_of(100), step_of(101)
        (62, 62, 100, 125)
    """
    return STEPS[bisect_left(STEPS, k)]
