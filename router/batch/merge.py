"""Merging of replies: the best k of several disjoint parts of a catalog."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from silverray.shard.api import Coverage, SearchReply, TaskScores
from silverray.shard.model.candidate_features import Traits


def merge_replies(replies: Sequence[SearchReply], k: int) -> SearchReply:
    """Merge replies to one query into its best k items by (score desc, key asc).

    The order is total, so merging is associative and commutative, and the merge of the top k of two parts is
    the top k of both. Shards hold disjoint partitions; should a key come twice all the same, its best score
    is kept.

    Args:
        replies: one or more replies with the same version and the same payload fields; all of them ranked or none, and
            traits in all or in none.
        k: number of items to keep.

    Returns:
        A reply with the version of the first and the least `seq`. Coverage and explanation are left at their
        defaults: they say how the parts were asked, which is not known here.

    Raises:
        ValueError: there are no replies.

    Cost:
        O(n log n) for n items in all.
    """
    return merge_batch([MergeTask(replies, k)])[0]


class MergeTask(NamedTuple):
    """What `merge_replies` takes, and the coverage of the merged reply."""

    replies: Sequence[SearchReply]
    k: int
    coverage: Coverage = Coverage()


def merge_batch(tasks: Sequence[MergeTask]) -> list[SearchReply]:
    """Merge the replies to each of several queries, in one sort: NumPy's calls cost more than their small work.

    Raises:
        ValueError: a task has no replies.
    """
    if not all(task.replies for task in tasks):
        raise ValueError("replies: expected at least one, got none")
    if not tasks:
        return []
    parts = [reply for task in tasks for reply in task.replies]
    keys = np.concatenate([reply.keys for reply in parts])
    scores = np.concatenate([reply.scores for reply in parts])
    sizes = [sum([len(reply.keys) for reply in task.replies]) for task in tasks]
    if len(scores) != sum(sizes):
        raise ValueError(f"replies: expected {sum(sizes)} scores, got {len(scores)}")
    if len(tasks) == 1:
        order = np.lexsort((keys, -scores))
    else:
        order = np.lexsort((keys, -scores, np.repeat(np.arange(len(tasks)), sizes)))
    keys, scores = keys[order], scores[order]
    starts = accumulate(sizes, initial=0)
    return [
        _best(task, keys[start : start + size], scores[start : start + size], order[start : start + size] - start)
        for task, start, size in zip(tasks, starts, sizes, strict=False)
    ]


def _best(
    task: MergeTask, keys: NDArray[np.int64], scores: NDArray[np.float32], places: NDArray[np.intp]
) -> SearchReply:
    """The first k of a task's items, which are in order; `places` says where each stood in its replies."""
    replies, k, coverage = task
    best, best_scores = keys[:k], scores[:k]
    if len(set(best.tolist())) < len(best):
        first = np.sort(np.unique(keys, return_index=True)[1])
        best, best_scores, places = keys[first][:k], scores[first][:k], places[first]
    head = replies[0]

    def pick(lists: Sequence[list[Any]]) -> list[Any]:
        values = list(chain.from_iterable(lists))
        return [values[place] for place in places[:k].tolist()]

    texts = [reply.ids for reply in replies if isinstance(reply.ids, list)]
    return SearchReply(
        ids=pick(texts) if texts else best,
        keys=best,
        scores=best_scores,
        fields={name: pick([reply.fields[name] for reply in replies]) for name in head.fields},
        version=head.version,
        seq=min([reply.seq for reply in replies]),
        coverage=coverage,
        tasks=None if head.tasks is None else _tasks(replies, places[:k]),
        traits=None if head.traits is None else _traits(replies, places[:k]),
    )


def _tasks(replies: Sequence[SearchReply], places: NDArray[np.intp]) -> TaskScores:
    """What the tasks make of the items at `places`, counted through the replies."""
    parts = [reply.tasks for reply in replies if reply.tasks is not None]
    if len(parts) != len(replies):
        raise ValueError(f"replies: expected all {len(replies)} to be ranked, got {len(parts)}")
    predictions = np.concatenate([part.predictions for part in parts])
    return TaskScores(parts[0].names, predictions, np.concatenate([part.found for part in parts])).take(places)


def _traits(replies: Sequence[SearchReply], places: NDArray[np.intp]) -> Traits:
    """The traits of the items at `places`, counted through the replies."""
    parts = [reply.traits for reply in replies if reply.traits is not None]
    if len(parts) != len(replies):
        raise ValueError(f"replies: expected traits in all {len(replies)}, got them in {len(parts)}")
    return Traits.joined(parts).take(places)
