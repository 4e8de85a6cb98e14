"""What a router asks of shards: requests as valid queries, with orders that no client can give."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from silverray.shard.api import SearchReply, SearchRequest
from silverray.shard.engine.validation import Validator
from silverray.shard.query import Query, QueryBatch
from silverray.shard.result_batch import FeaturedReply
from silverray.shard.searcher import ShardSearcher


def make_batch(validator: Validator, requests: Sequence[SearchRequest], **orders: Any) -> QueryBatch:
    """Requests with vectors as a router batches them, with orders such as `features` and `quotas`."""
    queries = [validator.validate(request) for request in requests]
    return QueryBatch.of([replace(query, **orders) for query in queries if isinstance(query, Query)])


async def ordered(searcher: ShardSearcher, requests: Sequence[SearchRequest], **orders: Any) -> list[SearchReply]:
    """What a shard answers to queries with orders."""
    batch = make_batch(Validator(searcher.catalog, searcher.engine.valuer), requests, **orders)
    rows = (await searcher.answer(batch)).rows()
    for row in rows:
        assert isinstance(row, SearchReply), row
    assert len(rows) == len(requests)
    return rows  # type: ignore[return-value]


async def featured(
    searcher: ShardSearcher, requests: Sequence[SearchRequest], features: tuple[str, ...] = (), **orders: Any
) -> list[FeaturedReply]:
    """What a shard answers to queries that ask for the features of candidates."""
    rows = await ordered(searcher, requests, features=features, **orders)
    for row in rows:
        assert isinstance(row, FeaturedReply), row
    return rows  # type: ignore[return-value]


def ask_featured(
    searcher: ShardSearcher, requests: Sequence[SearchRequest], features: tuple[str, ...] = (), **orders: Any
) -> list[FeaturedReply]:
    """`featured`, outside an event loop."""
    return asyncio.run(featured(searcher, requests, features, **orders))
