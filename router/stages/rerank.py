"""Re-ranked answers: wider lists with their traits from the shards, and a set-wise scorer over each merged list."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

from silverray.router.batch.ticket import Ticket
from silverray.router.errors import Unavailable, at
from silverray.router.settings import RerankSettings
from silverray.router.stages.chunks import in_turns
from silverray.shard.api import SearchError, SearchReply, SearchRequest
from silverray.shard.engine.rerank import SetRanker
from silverray.shard.model.scorer_files import load_overarch
from silverray.shard.snapshot.files import SnapshotFiles

if TYPE_CHECKING:
    from silverray.shard.snapshot.catalog import Catalog
    from silverray.shard.value.valuer import Valuer

Outcome = SearchReply | SearchError

_ITEMS = 16_000
"""Most items of lists that are ranked in one call: some 100 ms of a core."""


class Reranker:
    """Widens requests, and re-ranks what they find, in a thread of its own.

    A request that asks for traits itself is another router's, which re-ranks: it passes through.

    Args:
        settings: how long lists are.
        catalog: a snapshot with a set-wise scorer, which is loaded.
        valuer: the formulas.

    Raises:
        SnapshotError: the scorer is damaged.
    """

    def __init__(self, settings: RerankSettings, catalog: Catalog, valuer: Valuer) -> None:
        scorer = load_overarch(SnapshotFiles.open(catalog.path), catalog.schema).scorer
        self._ranker = SetRanker(scorer, catalog.tasks, valuer, settings.window)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rerank")

    def widened(self, requests: Sequence[SearchRequest], wanted: Sequence[SearchRequest]) -> list[SearchRequest]:
        """What shards are asked.

        Args:
            requests: as they came.
            wanted: the same, as the stages after this one want their lists.
        """
        return [
            its if request.traits is not None else self._ranker.widened(its)
            for request, its in zip(requests, wanted, strict=True)
        ]

    async def rerank(
        self,
        requests: Sequence[SearchRequest],
        wanted: Sequence[SearchRequest],
        tickets: Sequence[Ticket],
        outcomes: Sequence[Outcome],
    ) -> list[Outcome]:
        """Put the lists that were found into their new order; other outcomes stay as they are.

        Args:
            requests: as in `widened`.
            wanted: as in `widened`.
            tickets: with which the lists were asked for; they have the users' vectors.
            outcomes: of each what was found, merged.

        Returns:
            Whole lists, in which every item has its new score and predictions.
        """
        reranked = list(outcomes)
        lists: dict[int, tuple[SearchRequest, SearchReply]] = {}
        for place, (request, ticket, outcome) in enumerate(zip(requests, tickets, outcomes, strict=True)):
            if request.traits is not None or isinstance(outcome, SearchError):
                continue
            if outcome.traits is None:
                reranked[place] = at(ticket.where, Unavailable("the shards told no traits of their items"))
            else:
                lists[place] = replace(wanted[place], vectors=ticket.request.vectors), outcome
        if lists:
            loop = asyncio.get_running_loop()
            sizes = {place: max(1, len(reply.keys)) for place, (_, reply) in lists.items()}
            for places in in_turns(sizes, _ITEMS):
                asked, found = zip(*(lists[place] for place in places), strict=True)
                replies = await loop.run_in_executor(self._executor, self._ranker.rerank, asked, found)
                for place, reply in zip(places, replies, strict=True):
                    reranked[place] = reply
        return reranked

    def close(self) -> None:
        """End the thread once its work is done."""
        self._executor.shutdown(wait=False)
