"""Re-ranked answers: wider lists with their features from the shards, and a set-wise scorer over each merged list."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, ClassVar

from silverray.router.errors import Unavailable
from silverray.router.settings import RerankSettings
from silverray.router.stages.chunks import chunks_by_size
from silverray.shard.api import SearchError
from silverray.shard.engine.rerank import SetRanker
from silverray.shard.limits import filled
from silverray.shard.model.scorer_files import load_overarch
from silverray.shard.query import AnyQuery, Query, UserQuery
from silverray.shard.result_batch import FeaturedReply, Outcome
from silverray.shard.snapshot.files import SnapshotFiles

if TYPE_CHECKING:
    from silverray.shard.snapshot.catalog import Catalog
    from silverray.shard.value.valuer import Valuer

_ITEMS = 16_000
"""Most items of lists that are ranked in one call: some 100 ms of a core."""


class Reranker:
    """The stage of re-ranking: a set-wise scorer puts wider lists into a new order, in a thread of its own.

    Args:
        settings: how long lists are.
        catalog: a snapshot with a set-wise scorer, which is loaded.
        valuer: the formulas.

    Raises:
        SnapshotError: the scorer is damaged.
    """

    needs_vectors: ClassVar[bool] = True

    def __init__(self, settings: RerankSettings, catalog: Catalog, valuer: Valuer) -> None:
        scorer = load_overarch(SnapshotFiles.open(catalog.path), catalog.schema).scorer
        self._ranker = SetRanker(scorer, catalog.tasks, valuer, settings.window)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rerank")

    def widen(self, query: AnyQuery) -> AnyQuery:
        """A longer list, with the features of its items."""
        return self._ranker.widen(query)

    async def finish(self, queries: Sequence[Query | UserQuery], outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Put lists, cut to the window, into their new order, with new scores and predictions; see `Stage`."""
        reranked = list(outcomes)
        lists: dict[int, tuple[Query, FeaturedReply]] = {}
        for place, (query, outcome) in enumerate(zip(queries, outcomes, strict=True)):
            if isinstance(query, Query) and isinstance(outcome, FeaturedReply):
                lists[place] = query, self._window(query, outcome)
            elif not isinstance(outcome, SearchError):
                reranked[place] = Unavailable("the shards told no features of their items")
        if lists:
            loop = asyncio.get_running_loop()
            sizes = {place: max(1, len(reply.keys)) for place, (_, reply) in lists.items()}
            for places in chunks_by_size(sizes, _ITEMS):
                asked, found = zip(*(lists[place] for place in places), strict=True)
                replies = await loop.run_in_executor(self._executor, self._ranker.rerank, asked, found)
                for place, reply in zip(places, replies, strict=True):
                    reranked[place] = reply
        return reranked

    def _window(self, query: Query, reply: FeaturedReply) -> FeaturedReply:
        """What of a merged list is judged together, by the scores that shards have given."""
        return reply if query.keys is not None else filled(reply, self.widen(query).k, query.quotas)

    def close(self) -> None:
        """End the thread once its work is done."""
        self._executor.shutdown(wait=False)
