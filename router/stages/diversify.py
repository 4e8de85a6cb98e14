"""Diversified answers: more candidates with their traits from the shards, and a new order of the merged list."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from silverray.router.errors import Unavailable, at
from silverray.router.settings import DiversitySettings
from silverray.router.stages.chunks import in_turns
from silverray.shard.api import (
    MAX_STRENGTH,
    MAX_TRAITS_K,
    InvalidRequest,
    SearchError,
    SearchReply,
    SearchRequest,
)
from silverray.shard.model.diversity import Diversity

if TYPE_CHECKING:
    from silverray.shard.snapshot.catalog import Catalog

Outcome = SearchReply | SearchError

_STEPS = 1 << 22
"""Most places times candidates of lists that are chosen from in one call: some 150 ms of a core."""


class Diversifier:
    """Widens the requests that ask for diversification, and chooses from what they find, in a thread of its own.

    Args:
        settings: window, spacing and number of candidates.
        catalog: whose categories are spaced.

    Raises:
        ValueError: the spacing names what is not a filterable category; the message says `diversity.spacing.NAME`.
    """

    def __init__(self, settings: DiversitySettings, catalog: Catalog) -> None:
        check_spacing(settings, catalog)
        self._settings = settings
        self._traits = tuple(settings.spacing)
        self._module = Diversity(settings.window, list(settings.spacing.values()))
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="diversity")

    def admit(self, request: SearchRequest, where: str = "") -> SearchRequest:
        """Check what a request says of diversification; `where` is its path in its body.

        Returns:
            The request; without `diversify` where the strength is 0, which changes nothing.

        Raises:
            InvalidRequest: the strength or k is outside its range.
        """
        strength, prefix = request.diversify or 0.0, f"{where}." if where else ""
        if not 0 <= strength <= MAX_STRENGTH:
            raise InvalidRequest(f"expected 0 to {MAX_STRENGTH:g}, got {strength}", f"{prefix}diversify.strength")
        if request.k > MAX_TRAITS_K:
            raise InvalidRequest(f"expected at most {MAX_TRAITS_K} with diversify, got {request.k}", f"{prefix}k")
        return request if strength else replace(request, diversify=None)

    def widened(self, requests: Sequence[SearchRequest]) -> list[SearchRequest]:
        """What shards are asked: where a request is to be diversified, more items, with their traits."""
        return [request if request.diversify is None else self._widened(request) for request in requests]

    async def choose(
        self, requests: Sequence[SearchRequest], wheres: Sequence[str], outcomes: Sequence[Outcome]
    ) -> list[Outcome]:
        """Choose the answers of diversified requests among their candidates; other outcomes stay as they are.

        Args:
            requests: as they were before `widened`.
            wheres: the path of each in its body.
            outcomes: of each what was found, merged.
        """
        chosen = list(outcomes)
        lists: dict[int, tuple[SearchRequest, SearchReply]] = {}
        for place, (request, outcome) in enumerate(zip(requests, outcomes, strict=True)):
            if request.diversify is None or isinstance(outcome, SearchError):
                continue
            if outcome.traits is None:
                chosen[place] = at(wheres[place], Unavailable("the shards told no traits of their items", "diversify"))
            else:
                lists[place] = request, outcome
        if lists:
            loop = asyncio.get_running_loop()
            sizes = {place: request.k * max(1, len(reply.keys)) for place, (request, reply) in lists.items()}
            for places in in_turns(sizes, _STEPS):
                some = [lists[place] for place in places]
                replies = await loop.run_in_executor(self._executor, self._choose, some)
                for place, reply in zip(places, replies, strict=True):
                    chosen[place] = reply
        return chosen

    def close(self) -> None:
        """End the thread once its work is done."""
        self._executor.shutdown(wait=False)

    def _widened(self, request: SearchRequest) -> SearchRequest:
        k = min(MAX_TRAITS_K, request.k * self._settings.oversample)
        return replace(request, k=k, diversify=None, traits=self._traits)

    def _choose(self, lists: Sequence[tuple[SearchRequest, SearchReply]]) -> list[SearchReply]:
        start = perf_counter()
        scores, embeddings, codes, valid = map(torch.from_numpy, _padded([reply for _, reply in lists]))
        strength = torch.tensor([request.diversify for request, _ in lists], dtype=torch.float32)
        k = max(request.k for request, _ in lists)
        with torch.inference_mode():
            order = self._module(scores, embeddings, valid, strength, k, codes)
        milliseconds = round((perf_counter() - start) * 1e3, 3)
        chosen = []
        for (request, reply), row in zip(lists, order.numpy(), strict=True):
            places = row[: min(request.k, len(reply.keys))]
            explain = None
            if reply.explain is not None:
                about = {"candidates": len(reply.keys), "strength": request.diversify, "batch_ms": milliseconds}
                explain = reply.explain | {"short": len(places) < request.k, "diversity": about}
            chosen.append(replace(reply.take(places), explain=explain, traits=None))
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


def _padded(replies: Sequence[SearchReply]) -> tuple[NDArray[Any], ...]:
    """Scores `[B, N]`, vectors `[B, N, D]`, codes `[B, C, N]` and which places have an item, `[B, N]`, of B lists."""
    traits = [reply.traits for reply in replies if reply.traits is not None]
    count, most = len(replies), max(1, *(len(reply.keys) for reply in replies))
    scores = np.zeros((count, most), dtype=np.float32)
    vectors = np.zeros((count, most, traits[0].vectors.shape[1]), dtype=np.float32)
    codes = np.full((count, len(traits[0].codes), most), -1, dtype=np.int64)
    valid = np.zeros((count, most), dtype=np.bool_)
    for row, (reply, its) in enumerate(zip(replies, traits, strict=True)):
        n = len(reply.keys)
        scores[row, :n], vectors[row, :n], codes[row, :, :n], valid[row, :n] = (
            reply.scores,
            its.vectors,
            its.codes,
            True,
        )
    return scores, vectors, codes, valid
