"""Queries on their way through the router."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from silverray.shard.api import DeadlineExceeded, SequenceNotReached
from silverray.shard.index.ladder import step_of
from silverray.shard.query import Query, UserQuery
from silverray.shard.result_batch import Outcome, ResultBatch


class Group(NamedTuple):
    """What may share a batch.

    Attributes:
        step: items that each ticket asks for at most, see `step_of`; the larger it is, the fewer tickets.
        given: whether given items are ranked.
    """

    step: int
    given: bool = False


class Ticket:
    """A deadline and the future of an answer.

    From its creation until a fan-out takes over, a timer answers it with `DeadlineExceeded` at its deadline,
    so that no stage before (queue, encoder) can keep a query longer than that.

    Args:
        deadline: when it must be answered, on the clock of `time.monotonic`.
        where: path of the query in its body, such as `queries[3]`; empty for a query alone.
        future: of the answer; None makes one.
    """

    __slots__ = ("_timer", "deadline", "future", "where")

    missed = "the request was not sent"
    """What did not happen in time when the timer answers."""

    def __init__(self, deadline: float, where: str = "", future: asyncio.Future[Outcome] | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.deadline = deadline
        self.where = where
        self.future: asyncio.Future[Outcome] = future or loop.create_future()
        self._timer: asyncio.TimerHandle | None = loop.call_later(deadline - time.monotonic(), self.expire)

    @property
    def group(self) -> Group:
        """Tickets of one group may share a batch."""
        return Group(1)

    @property
    def done(self) -> bool:
        """Whether it is answered or its caller has gone."""
        return self.future.done()

    def resolve(self, outcome: Outcome) -> None:
        """Answer the query, unless it has been answered already."""
        self.take_over()
        if not self.future.done():
            self.future.set_result(outcome)

    def take_over(self) -> None:
        """Stop the timer: from here on the caller keeps the deadline."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def abandon(self) -> None:
        """Give the query up: its caller no longer waits."""
        self.take_over()
        self.future.cancel()

    def expire(self) -> None:
        """Answer the query, which was not sent in time."""
        self.resolve(DeadlineExceeded(f"{self.missed} in time", self.where or None))


class SearchTicket(Ticket):
    """A query for the shards.

    Args:
        query: what they are asked.
        deadline: see `Ticket`, as for `where` and `future`.
        kept: results of this query from shards that need not be asked again, by the shard's name.

    Attributes:
        kept: as given, and what else shards have replied that had reached the query's `min_seq`.
        lagging: names of the shards that had not.
    """

    __slots__ = ("kept", "lagging", "query")

    def __init__(
        self,
        query: Query,
        deadline: float,
        where: str = "",
        future: asyncio.Future[Outcome] | None = None,
        kept: Mapping[str, ResultBatch] | None = None,
    ) -> None:
        super().__init__(deadline, where, future)
        self.query = query
        self.kept: dict[str, ResultBatch] = dict(kept or {})
        self.lagging: set[str] = set()

    @property
    def group(self) -> Group:
        """Queries that are searched alike; items to rank do not share a batch with searches."""
        return Group(step_of(self.query.k), self.query.keys is not None)

    @property
    def search(self) -> SearchTicket:
        """Itself: the ticket that the shards answer."""
        return self

    def hear(self, shard: str, results: ResultBatch, place: int) -> None:
        """Note what a shard has made of a query with a `min_seq`."""
        error = results.errors.get(place)
        if isinstance(error, SequenceNotReached):
            self.lagging.add(shard)
        elif error is None:
            if results.seqs[place] >= self.query.min_seq:
                self.kept[shard] = results.take([place])
            else:
                self.lagging.add(shard)


class EncodingTicket(Ticket):
    """A query that waits for its vectors.

    Args:
        query: with user features.
        deadline: see `Ticket`, as for `where`.

    Attributes:
        search: the ticket that it has become once it was encoded; None before.
    """

    __slots__ = ("query", "search")

    missed = "no query vector was had"

    def __init__(self, query: UserQuery, deadline: float, where: str = "") -> None:
        super().__init__(deadline, where)
        self.query = query
        self.search: SearchTicket | None = None

    def abandon(self) -> None:
        """Give the query up, also where it has vectors by now."""
        super().abandon()
        if self.search is not None:
            self.search.take_over()

    def encoded(self, vectors: NDArray[np.float32]) -> SearchTicket:
        """The ticket of the query with vectors, which shares the deadline and the future."""
        self.take_over()
        self.search = SearchTicket(self.query.encoded(vectors), self.deadline, self.where, self.future)
        return self.search
