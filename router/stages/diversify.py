"""Diversified answers: more candidates with their features from the shards, and a new order of the merged list."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from silverray.router.errors import Unavailable
from silverray.router.settings import DiversitySettings
from silverray.router.stages.chunks import chunks_by_size
from silverray.shard.api import MAX_FEATURES_K, SearchError, SearchReply
from silverray.shard.model.diversity import Diversity
from silverray.shard.query import AnyQuery, Query, UserQuery
from silverray.shard.result_batch import FeaturedReply, Outcome

if TYPE_CHECKING:
    from silverray.shard.snapshot.catalog import Catalog

_STEPS = 1 << 22
"""Most places times candidates of lists that are chosen from in one call: some 150 ms of a core."""


class Diversifier:
    """The stage of diversification: chooses from wider lists, in a thread of its own.

    Args:
        settings: window, spacing and number of candidates.
        catalog: whose categories are spaced.

    Raises:
        ValueError: the spacing names what is not a filterable category; the message says `diversity.spacing.NAME`.
    """

    needs_vectors: ClassVar[bool] = False

    def __init__(self, settings: DiversitySettings, catalog: Catalog) -> None:
        check_spacing(settings, catalog)
        self._settings = settings
        self._categories = tuple(settings.spacing)
        self._module = Diversity(settings.window, list(settings.spacing.values()))
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="diversity")

    def widen(self, query: AnyQuery) -> AnyQuery:
        """More items with their features, where a query is to be diversified."""
        if query.diversify is None:
            return query
        k = min(MAX_FEATURES_K, query.k * self._settings.oversample)
        return replace(query, k=k, diversify=None, features=self._categories)

    async def finish(self, queries: Sequence[Query | UserQuery], outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Choose the answers of diversified queries among their candidates; see `Stage`."""
        chosen = list(outcomes)
        lists: dict[int, tuple[Query | UserQuery, FeaturedReply]] = {}
        for place, (query, outcome) in enumerate(zip(queries, outcomes, strict=True)):
            if query.diversify is None or isinstance(outcome, SearchError):
                continue
            if isinstance(outcome, FeaturedReply):
                lists[place] = query, outcome
            else:
                chosen[place] = Unavailable("the shards told no features of their items", "diversify")
        if lists:
            loop = asyncio.get_running_loop()
            sizes = {place: query.k * max(1, len(reply.keys)) for place, (query, reply) in lists.items()}
            for places in chunks_by_size(sizes, _STEPS):
                some = [lists[place] for place in places]
                replies = await loop.run_in_executor(self._executor, self._choose, some)
                for place, reply in zip(places, replies, strict=True):
                    chosen[place] = reply
        return chosen

    def close(self) -> None:
        """End the thread once its work is done."""
        self._executor.shutdown(wait=False)

    def _choose(self, lists: Sequence[tuple[Query | UserQuery, FeaturedReply]]) -> list[SearchReply]:
        start = perf_counter()
        scores, embeddings, codes, valid = map(torch.from_numpy, _padded([reply for _, reply in lists]))
        strength = torch.tensor([query.diversify for query, _ in lists], dtype=torch.float32)
        k = max(query.k for query, _ in lists)
        with torch.inference_mode():
            order = self._module(scores, embeddings, valid, strength, k, codes)
        milliseconds = round((perf_counter() - start) * 1e3, 3)
        chosen = []
        for (query, reply), row in zip(lists, order.numpy(), strict=True):
            places = row[: min(query.k, len(reply.keys))]
            explain = None
            if reply.explain is not None:
                about = {"candidates": len(reply.keys), "strength": query.diversify, "batch_ms": milliseconds}
                explain = reply.explain | {"short": len(places) < query.k, "diversity": about}
            chosen.append(replace(reply.take(places).plain(), explain=explain))
        return chosen


def check_spacing(settings: DiversitySettings, catalog: Catalog) -> None:
    """Refuse spacing of what is not a filterable category of the catalog.

    Raises:
        ValueError: the message names the key.
    """
    for name in settings.spacing:
        if name not in catalog.schema.categories:
            known = ", ".join(catalog.schema.categories) or "none"
            raise ValueError(f"diversity.spacing.{name}: expected a filterable category of the catalog ({known})")


def _padded(lists: Sequence[FeaturedReply]) -> tuple[NDArray[Any], ...]:
    """Scores `[B, N]`, vectors `[B, N, D]`, codes `[B, C, N]` and which places have an item, `[B, N]`, of B lists."""
    count, most, first = len(lists), max(1, *(len(reply.keys) for reply in lists)), lists[0].features
    scores = np.zeros((count, most), dtype=np.float32)
    vectors = np.zeros((count, most, first.vectors.shape[1]), dtype=np.float32)
    codes = np.full((count, len(first.codes), most), -1, dtype=np.int64)
    valid = np.zeros((count, most), dtype=np.bool_)
    for row, reply in enumerate(lists):
        n = len(reply.keys)
        scores[row, :n], valid[row, :n] = reply.scores, True
        vectors[row, :n], codes[row, :, :n] = reply.features.vectors, reply.features.codes
    return scores, vectors, codes, valid
