"""Limits: how much of a merged list a query gets, and quotas: places of it that are kept for what single tasks predict
best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from silverray.shard.api import MAX_K, SearchError
from silverray.shard.limits import limited
from silverray.shard.query import AnyQuery, Query, UserQuery
from silverray.shard.result_batch import Outcome

if TYPE_CHECKING:
    from silverray.shard.snapshot.catalog import Catalog


class Limiter:
    """The stage of limits: cuts merged lists to what queries want, and asks shards for what quotas need.

    The q items with the best prediction of a task have a place in the list, whatever they are worth; the other places
    go to the items of the highest value. Where quotas ask for more than k, tasks take turns, in the model's order. The
    list stays in the order of values. A shard sends its k best by value and its q best of each task, so that the list
    does not depend on how the catalog is cut.

    Args:
        least: places by task.
        catalog: whose tasks these are.

    Raises:
        ValueError: a name is no task, or the model has one task only.
    """

    needs_vectors: ClassVar[bool] = False

    def __init__(self, least: Mapping[str, int], catalog: Catalog) -> None:
        check_quotas(least, catalog)
        self._reranked = catalog.set_wise
        self._least = tuple(least.get(task, 0) for task in catalog.tasks) if least else ()

    def widen(self, query: AnyQuery) -> AnyQuery:
        """The best items of each task beside the k; given items are a list already.

        With a least score any candidate may come to a place that is kept, so that all are wanted; of a list that is
        ranked anew, its window.
        """
        if query.keys is not None or not self._least:
            return query
        every = query.min_score is not None and not self._reranked
        return replace(query, quotas=(MAX_K,) * len(self._least) if every else self._least)

    async def finish(self, queries: Sequence[Query | UserQuery], outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Cut lists to what their queries want; see `Stage`."""
        return [
            outcome if isinstance(outcome, SearchError) else limited(outcome, query, self._least)
            for query, outcome in zip(queries, outcomes, strict=True)
        ]

    def close(self) -> None:
        """The stage has started nothing."""


def check_quotas(least: Mapping[str, int], catalog: Catalog) -> None:
    """Refuse quotas of what is no task, or of the only one.

    Raises:
        ValueError: the message names the key.
    """
    for name in least:
        if len(catalog.tasks) == 1:
            raise ValueError(f"quotas.{name}: expected none for a model with one task")
        if name not in catalog.tasks:
            raise ValueError(f"quotas.{name}: expected one of the tasks {', '.join(catalog.tasks)}")
