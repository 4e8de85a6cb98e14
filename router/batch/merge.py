"""Merging of results: the best k of several disjoint parts of a catalog, for all queries of a batch in one sort.

Letters: B queries, P parts, n items of all parts together.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from silverray.shard.api import Coverage
from silverray.shard.model.candidate_features import CandidateFeatures
from silverray.shard.result_batch import ResultBatch, columns_of, picked


def merge(parts: Sequence[ResultBatch], limits: Sequence[int], coverages: Sequence[Coverage]) -> ResultBatch:
    """Merge the results of parts of a catalog into the best items of each query by (score desc, key asc).

    The order is total, so merging is associative and commutative, and the merge of the top k of two parts is
    the top k of both. Parts hold disjoint partitions; should a key come twice all the same, its best score
    is kept.

    Args:
        parts: one or more results of the same B queries, none of them an error, of the same version; of each query all
            parts have ranked its list or none, and have features of its candidates or none.
        limits: of each query, how many items to keep.
        coverages: of each query, what part of the catalog the merged answer rests on.

    Returns:
        The merged results; each with the least `seq` of its parts, and without an explanation.

    Raises:
        ValueError: there are no parts, or lists of a query are ranked or have features in some of them only.

    Cost:
        O(n log n).
    """
    if not parts:
        raise ValueError("parts: expected at least one, got none")
    count, edges = len(limits), np.array([part.offsets for part in parts])
    columns = columns_of(parts)
    query = np.concatenate([np.repeat(np.arange(count), sizes) for sizes in np.diff(edges)])
    every = np.lexsort((columns["keys"], -columns["scores"], query))
    order = _cut(every, query, limits)
    if len(_repeated(order, query, columns["keys"])):
        order = _cut(np.delete(every, _repeated(every, query, columns["keys"])), query, limits)
    offsets = np.zeros(count + 1, dtype=np.int64)
    np.cumsum(np.bincount(query[order], minlength=count), out=offsets[1:])
    return ResultBatch(
        offsets=offsets,
        **picked(columns, order),
        names=parts[0].names,
        ranked=_alike("ranked", [part.ranked for part in parts]),
        features=_features(parts, edges, order, offsets),
        version=parts[0].version,
        seqs=tuple(map(min, zip(*(part.seqs for part in parts), strict=True))),
        coverages=tuple(coverages),
        explains=(None,) * count,
    )


def _cut(order: NDArray[np.intp], query: NDArray[np.intp], limits: Sequence[int]) -> NDArray[np.intp]:
    """The first items of each query, as many as it may have."""
    mine = query[order]
    counts = np.bincount(mine, minlength=len(limits))
    places = np.arange(len(order)) - (np.cumsum(counts) - counts)[mine]
    return order[places < np.array(limits)[mine]]


def _repeated(order: NDArray[np.intp], query: NDArray[np.intp], keys: NDArray[np.int64]) -> NDArray[np.intp]:
    """Places in an order at which a key of a query stands that has stood before."""
    together = np.lexsort((keys[order], query[order]))  # stable: the first stays the first
    mine, own = keys[order][together], query[order][together]
    again: NDArray[np.intp] = together[1:][(mine[1:] == mine[:-1]) & (own[1:] == own[:-1])]
    return again


def _alike(name: str, flags: Sequence[NDArray[np.bool_]]) -> NDArray[np.bool_]:
    """What every part says of a query.

    Raises:
        ValueError: one part says another thing than the others.
    """
    if any((flag != flags[0]).any() for flag in flags[1:]):
        raise ValueError(f"parts: expected all {len(flags)} lists of a query to be {name} or none")
    return flags[0]


def _features(
    parts: Sequence[ResultBatch], edges: NDArray[np.int64], order: NDArray[np.intp], offsets: NDArray[np.int64]
) -> tuple[CandidateFeatures | None, ...] | None:
    """The features of the items of each list, which stand in `order` among those of all parts."""
    wanted = [
        np.zeros(len(part), np.bool_) if part.features is None else np.array([one is not None for one in part.features])
        for part in parts
    ]
    with_features = _alike("with features", wanted)
    if not with_features.any():
        return None
    begins = np.cumsum([0, *edges[:-1, -1]])  # of the parts, among all items
    merged: list[CandidateFeatures | None] = []
    for place, there in enumerate(with_features.tolist()):
        of_parts = [part.features[place] for part in parts if part.features is not None]
        mine = order[offsets[place] : offsets[place + 1]]
        part = np.searchsorted(begins, mine, side="right") - 1
        sizes = edges[:, place + 1] - edges[:, place]
        within = mine - begins[part] - edges[part, place] + (np.cumsum(sizes) - sizes)[part]
        listed = [one for one in of_parts if one is not None]
        merged.append(CandidateFeatures.joined(listed).take(within) if there else None)
    return tuple(merged)
