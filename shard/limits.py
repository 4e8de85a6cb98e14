"""Limits: which items of a list a query gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from silverray.shard.api import SearchReply
from silverray.shard.query import Options

Reply = TypeVar("Reply", bound=SearchReply)


def limited(reply: Reply, query: Options, quotas: Sequence[int] = ()) -> Reply:
    """What of a list, which is in order of score, a query gets: items of its least score or more; see `filled`.

    Given items to rank are all there. The least score may wait until the list is merged and ranked: what it leaves of
    the k best is what the k best of all that have it are.
    """
    if query.keys is not None:
        return reply
    if query.min_score is not None:
        there = reply.take(np.flatnonzero(at_least(reply.scores, query.min_score)))
        explain = there.explain and there.explain | {"short": len(there.keys) < query.k}
        reply = replace(there, explain=explain)
    return reply if not quotas and len(reply.keys) <= query.k else filled(reply, query.k, quotas)


def at_least(scores: NDArray[np.float32], least: float) -> NDArray[np.bool_]:
    """Which of `[n]` scores are not below one; in float64, as they are shown: a float32 cannot be 0.35."""
    high: NDArray[np.bool_] = scores.astype(np.float64) >= least
    return high


def filled(reply: Reply, k: int, quotas: Sequence[int]) -> Reply:
    """The k items of a list, which is in order of value, that quotas and then values choose.

    Args:
        reply: a list; a ranked one where there are quotas.
        k: places.
        quotas: for each task how many places are kept for its best predictions; empty for none.
    """
    if not quotas:
        return reply.take(np.arange(min(k, len(reply.keys))))
    if reply.tasks is None:
        raise ValueError("reply: expected predictions of several tasks, got none")
    orders = [
        np.lexsort((reply.keys, -predictions))[:count].tolist()
        for predictions, count in zip(reply.tasks.predictions.T, quotas, strict=True)
    ]
    turns = chain.from_iterable([own[turn] for own in orders if turn < len(own)] for turn in range(max(quotas)))
    kept = list(dict.fromkeys(chain(turns, range(len(reply.keys)))))[:k]
    return reply.take(np.sort(np.array(kept, dtype=np.intp)))
