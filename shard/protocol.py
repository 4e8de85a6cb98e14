"""The protocol between a router and its shards."""

from __future__ import annotations

from typing import Protocol

from silverray.shard.query import QueryBatch
from silverray.shard.result_batch import ResultBatch


class Shard(Protocol):
    """Anything that answers batches of queries: a shard here or in another process, or a router over several."""

    async def answer(self, batch: QueryBatch) -> ResultBatch:
        """Answer every query of a batch, in order.

        Args:
            batch: valid queries.

        Returns:
            For each query its list, or the error that concerns it alone.

        Raises:
            SearchError: the whole batch failed.
        """
        ...
