"""The protocol of stages: what a router does around the search of its shards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from silverray.shard.query import Options, Query, UserQuery
from silverray.shard.result_batch import Outcome

AnyQuery = TypeVar("AnyQuery", bound=Options)


class Stage(Protocol):
    """Widens queries on their way to the shards, and finishes what comes back.

    Stages are a chain: each sees queries as the one before has widened them, and lists as the one after has finished
    them.
    """

    def widen(self, query: AnyQuery) -> AnyQuery:
        """What is to be found for a query, so that this stage can finish it."""
        ...

    async def finish(self, queries: Sequence[Query | UserQuery], outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Make answers of what was found.

        Args:
            queries: as they were before `widen`; one with vectors where its outcome is a list.
            outcomes: of each query what was found, merged.

        Returns:
            One outcome per query; errors stay as they are.
        """
        ...

    def close(self) -> None:
        """End what the stage has started once its work is done."""
        ...
