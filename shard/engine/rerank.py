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
from silverray.shard.api import SearchReply, SearchRequest, TaskScores
from silverray.shard.model.candidate_features import FieldValues, Traits
from silverray.shard.model.reranking import Reranking
from silverray.shard.model.scorers import Scorer
from silverray.shard.value.inputs import Values
from silverray.shard.value.valuer import Asked, Valuation, Valuer

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

    def answer(
        self, requests: Sequence[SearchRequest], find: Callable[[Sequence[SearchRequest]], list[SearchReply]]
    ) -> list[SearchReply]:
        """Answer requests whose lists `find` finds; a request for traits is from someone who re-ranks by himself."""
        found = find([request if request.traits is not None else self.widened(request) for request in requests])
        own = [place for place, request in enumerate(requests) if request.traits is None]
        ranked = self.rerank([requests[place] for place in own], [found[place] for place in own])
        for place, reply in zip(own, ranked, strict=True):
            found[place] = reply.take(np.arange(min(requests[place].k, len(reply.keys))))
        return found

    def widened(self, request: SearchRequest) -> SearchRequest:
        """What finds the list of a request: a window, with the traits of its items. Given items are a list already."""
        k = request.k if request.keys is not None else max(self._window, request.k)
        return replace(request, k=k, traits=request.traits or ())

    def rerank(self, requests: Sequence[SearchRequest], replies: Sequence[SearchReply]) -> list[SearchReply]:
        """Put whole lists into their new order, with new scores and predictions.

        Args:
            requests: as they were before `widened`, with vectors.
            replies: for each its list, with traits.

        Returns:
            All items of the lists; with traits where the request asks for them.
        """
        ranked: list[SearchReply | None] = [None] * len(replies)
        for places in _alike([len(reply.keys) for reply in replies]):
            some = self._rerank([requests[place] for place in places], [replies[place] for place in places])
            for place, reply in zip(places, some, strict=True):
                ranked[place] = reply
        return [reply for reply in ranked if reply is not None]

    @torch.inference_mode()
    def _rerank(self, requests: Sequence[SearchRequest], replies: Sequence[SearchReply]) -> list[SearchReply]:
        start = perf_counter()
        traits = [_traits(reply) for reply in replies]
        width = max(1, *(len(reply.keys) for reply in replies))
        valuations = self._valuer.valuations([Asked.of(request) for request in requests], torch.device("cpu"))
        best = self._reranking(
            torch.from_numpy(np.stack([_vectors(request) for request in requests])),
            _padded([its.vectors for its in traits], width),
            _padded([its.features for its in traits], width),
            _padded([reply.keys for reply in replies], width),
            _padded([np.ones(len(reply.keys), dtype=np.bool_) for reply in replies], width),
            valuations,
            [_fields(valuation, traits, width) for valuation in valuations],
        )
        seconds = perf_counter() - start
        columns = (part.numpy() for part in best)
        return list(map(self._reply, requests, replies, *columns, [seconds] * len(replies)))

    def _reply(
        self,
        request: SearchRequest,
        reply: SearchReply,
        places: NDArray[np.int64],
        scores: NDArray[np.float32],
        predictions: NDArray[np.float32],
        seconds: float,
    ) -> SearchReply:
        count = len(reply.keys)
        order = places[:count]
        found = reply.scores[:, None] if reply.tasks is None else reply.tasks.found
        return replace(
            reply.take(order),
            scores=scores[:count],
            tasks=TaskScores(self._tasks, predictions[order], found[order]),
            explain=reply.explain and _explained(reply.explain, request.k, count, seconds),
            traits=None if request.traits is None else _traits(reply).take(order),
        )


def _explained(explain: dict[str, Any], k: int, count: int, seconds: float) -> dict[str, Any]:
    stage = {"stage": "rerank", "ms": round(seconds * 1e3, 3), "in": count, "out": min(k, count)}
    return explain | {"short": count < k, "stages": [*explain.get("stages", []), stage]}


def _alike(lengths: Sequence[int]) -> Iterator[Sequence[int]]:
    """Places of lists that are ranked together: none is padded to twice its length, and pairs are bounded."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    for bits, places in groupby(order, key=lambda place: lengths[place].bit_length()):
        some, most = list(places), max(1, PAIRS >> 2 * bits)
        yield from (some[start : start + most] for start in range(0, len(some), most))


def _fields(valuation: Valuation, traits: Sequence[Traits], width: int) -> dict[str, Values]:
    """What a formula reads of the items of its R requests."""
    rows = range(len(traits)) if valuation.rows is None else valuation.rows.tolist()
    given = {name: [traits[row].fields[name] for row in rows] for name in valuation.fields}
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


def _traits(reply: SearchReply) -> Traits:
    assert reply.traits is not None, "lists are found with traits"
    return reply.traits


def _vectors(request: SearchRequest) -> NDArray[np.float32]:
    assert request.vectors is not None, "the request was not encoded"
    return request.vectors
