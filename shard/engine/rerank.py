"""The set ranker: finds lists as wide as a set-wise scorer judges them, and puts them into its order.

Letters: B requests, N places of a list, T tasks, D dimensions, R requests of a formula.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silverray.kernels.topk import warm_up
from silverray.shard.api import SearchReply, TaskScores
from silverray.shard.limits import limited
from silverray.shard.model.candidate_features import CandidateFeatures, FieldValues
from silverray.shard.model.reranking import Reranking
from silverray.shard.model.scorers import Scorer
from silverray.shard.query import AnyQuery, Query, QueryBatch
from silverray.shard.result_batch import FeaturedReply, ResultBatch
from silverray.shard.value.inputs import Values
from silverray.shard.value.valuer import Valuation, Valuer

WINDOW = 250
"""Items that are judged together, unless more are wanted."""
PAIRS = 1 << 23
"""Most pairs of items, of all lists together, that are attended to at a time."""


class SetRanker:
    """Re-ranks lists, on the CPU.

    Args:
        scorer: judges a list as a whole.
        tasks: names of its predictions.
        valuer: gives each request its formula.
        window: items of a list that are judged together; a list of more is judged whole.
    """

    def __init__(self, scorer: Scorer, tasks: tuple[str, ...], valuer: Valuer, window: int = WINDOW) -> None:
        self._reranking = Reranking(scorer)
        self._tasks = tasks
        self._valuer = valuer
        self._window = window
        warm_up(torch.device("cpu"))

    def answer(self, batch: QueryBatch, find: Callable[[QueryBatch], ResultBatch]) -> ResultBatch:
        """Answer queries whose lists `find` finds; one that asks for features is a router's, which re-ranks itself."""
        if None not in batch.features:
            return find(batch)
        queries = list(batch)
        found = find(QueryBatch.of([query if query.features is not None else self.widen(query) for query in queries]))
        rows = found.rows()
        lists = {
            place: row
            for place, (query, row) in enumerate(zip(queries, rows, strict=True))
            if query.features is None and isinstance(row, FeaturedReply)
        }
        ranked = self.rerank([queries[place] for place in lists], [*lists.values()])
        for place, reply in zip(lists, ranked, strict=True):
            rows[place] = limited(reply, queries[place])
        return ResultBatch.of(rows, found.version)

    def widen(self, query: AnyQuery) -> AnyQuery:
        """What finds the list of a query: a window, with the features of its items. Given items are a list already."""
        k = query.k if query.keys is not None else max(self._window, query.k)
        return replace(query, k=k, features=query.features or ())

    def rerank(self, queries: Sequence[Query], lists: Sequence[FeaturedReply]) -> list[SearchReply]:
        """Put whole lists into their new order, with new scores and predictions.

        Args:
            queries: as they were before `widen`.
            lists: of each its list.

        Returns:
            All items of the lists; with their features where the query asks for them.
        """
        ranked: dict[int, SearchReply] = {}
        for places in _alike([len(reply.keys) for reply in lists]):
            some = self._rerank([queries[place] for place in places], [lists[place] for place in places])
            ranked.update(zip(places, some, strict=True))
        return [ranked[place] for place in range(len(lists))]

    @torch.inference_mode()
    def _rerank(self, queries: Sequence[Query], lists: Sequence[FeaturedReply]) -> list[SearchReply]:
        start = perf_counter()
        features = [reply.features for reply in lists]
        width = max(1, *(len(reply.keys) for reply in lists))
        valuations = self._valuer.valuations([query.formula for query in queries], torch.device("cpu"))
        best = self._reranking(
            torch.from_numpy(np.stack([query.vectors for query in queries])),
            _padded([one.vectors for one in features], width),
            _padded([one.features for one in features], width),
            _padded([reply.keys for reply in lists], width),
            _padded([np.ones(len(reply.keys), dtype=np.bool_) for reply in lists], width),
            valuations,
            [_fields(valuation, features, width) for valuation in valuations],
        )
        seconds = perf_counter() - start
        columns = (part.numpy() for part in best)
        return list(map(self._reply, queries, lists, *columns, [seconds] * len(lists)))

    def _reply(
        self,
        query: Query,
        reply: FeaturedReply,
        places: NDArray[np.int64],
        scores: NDArray[np.float32],
        predictions: NDArray[np.float32],
        seconds: float,
    ) -> SearchReply:
        count = len(reply.keys)
        order = places[:count]
        found = reply.scores[:, None] if reply.tasks is None else reply.tasks.found
        ranked = replace(
            reply.take(order),
            scores=scores[:count],
            tasks=TaskScores(self._tasks, predictions[order], found[order]),
            explain=reply.explain and _explained(reply.explain, query.k, count, seconds),
        )
        return ranked.plain() if query.features is None else ranked


def _explained(explain: dict[str, Any], k: int, count: int, seconds: float) -> dict[str, Any]:
    stage = {"stage": "rerank", "ms": round(seconds * 1e3, 3), "in": count, "out": min(k, count)}
    return explain | {"short": count < k, "stages": [*explain.get("stages", []), stage]}


def _alike(lengths: Sequence[int]) -> Iterator[Sequence[int]]:
    """Places of lists that are ranked together: none is padded to twice its length, and pairs are bounded."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for bits, places in groupby(order, key=lambda place: lengths[place].bit_length()):
        some, most = list(places), max(1, PAIRS >> 2 * bits)
        yield from (some[start : start + most] for start in range(0, len(some), most))


def _fields(valuation: Valuation, features: Sequence[CandidateFeatures], width: int) -> dict[str, Values]:
    """What a formula reads of the items of its R requests."""
    rows = range(len(features)) if valuation.rows is None else valuation.rows.tolist()
    given = {name: [features[row].fields[name] for row in rows] for name in valuation.fields}
    return {name: _values(parts, width) for name, parts in given.items()}


def _values(parts: Sequence[FieldValues], width: int) -> Values:
    ends = np.cumsum([len(part.values) for part in parts])[:-1]
    joined = FieldValues.joined(parts)  # with as many places for tags in all
    present = None if joined.present is None else _padded(np.split(joined.present, ends), width)
    return Values(_padded(np.split(joined.values, ends), width), present)


def _padded(parts: Sequence[NDArray[Any]], width: int) -> Tensor:
    """`[B, width, ...]` of B arrays that differ in their first axis; what is beyond an array is 0."""
    table = np.zeros((len(parts), width, *parts[0].shape[1:]), dtype=parts[0].dtype)
    for row, part in enumerate(parts):
        table[row, : len(part)] = part
    return torch.from_numpy(table)
