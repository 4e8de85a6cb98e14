"""The protocol of stages: what a router does around the search of its shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from silverray.shard.query import AnyQuery, Query, UserQuery
from silverray.shard.result_batch import Outcome


class Stage(Protocol):
    """Widens queries on their way to the shards, and finishes what comes back.

    Stages are a chain: each sees queries as the one before has widened them, and lists as the one after has finished
    them.

    Attributes:
        needs_vectors: whether `finish` needs the vectors that queries have been given meanwhile.
    """

    needs_vectors: ClassVar[bool]

    def widen(self, query: AnyQuery) -> AnyQuery:
        """What is to be found for a query, so that this stage can finish it."""
        ...

    async def finish(self, queries: Sequence[Query | UserQuery], outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Make answers of what was found.

        Args:
            queries: as they were before `widen`.
            outcomes: of each query what was found, merged.

        Returns:
            One outcome per query; errors stay as they are.
        """
        ...

    def close(self) -> None:
        """End what the stage has started once its work is done."""
        ...
