"""Merging of replies: the best k of several disjoint parts of a catalog."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silverray.shard.api import SearchReply


def merge_replies(replies: Sequence[SearchReply], k: int) -> SearchReply:
    """Merge replies to one query into its best k items by (score desc, key asc).

    The order is total, so merging is associative and commutative, and the merge of the top k of two parts is
    the top k of both. Shards hold disjoint partitions; should a key come twice all the same, its best score
    is kept.

    Args:
        replies: one or more replies with the same version and the same payload fields.
        k: number of items to keep.

    Returns:
        A reply with the version of the first and the least `seq`. Coverage and explanation are left at their
        defaults: they say how the parts were asked, which is not known here.

    Raises:
        ValueError: there are no replies.

    Cost:
        O(n log n) for n items in all.
    """
    if not replies:
        raise ValueError("replies: expected at least one, got none")
    keys = np.concatenate([reply.keys for reply in replies])
    scores = np.concatenate([reply.scores for reply in replies])
    order = _distinct(keys, np.lexsort((keys, -scores)))[:k]
    places = order.tolist()
    best = keys[order]

    def pick(lists: Sequence[list[Any]]) -> list[Any]:
        values = list(chain.from_iterable(lists))
        return [values[place] for place in places]

    texts = [reply.ids for reply in replies if isinstance(reply.ids, list)]
    return SearchReply(
        ids=pick(texts) if texts else best,
        keys=best,
        scores=scores[order],
        fields={name: pick([reply.fields[name] for reply in replies]) for name in replies[0].fields},
        version=replies[0].version,
        seq=min(reply.seq for reply in replies),
    )


def _distinct(keys: NDArray[np.int64], order: NDArray[np.intp]) -> NDArray[np.intp]:
    """Drop the places of keys that came before in `order`."""
    ascending = np.sort(keys)
    if not (ascending[1:] == ascending[:-1]).any():
        return order
    first = np.unique(keys[order], return_index=True)[1]
    return order[np.sort(first)]
