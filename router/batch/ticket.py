"""A request on its way through the router."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from silverray.shard.api import DeadlineExceeded, SearchError, SearchReply, SearchRequest, SequenceNotReached


class Ticket:
    """A request, its deadline and the future of its answer.

    From its creation until a fan-out takes over, a timer answers it with `DeadlineExceeded` at its deadline,
    so that no stage before (queue, encoder) can keep a request longer than that.

    Args:
        request: the admitted request.
        deadline: when it must be answered, on the clock of `time.monotonic`.
        where: path of the request in its body, such as `queries[3]`; empty for a request alone.
        kept: replies of shards that need not be asked again, by the shard's name.

    Attributes:
        kept: as given, and what else shards have replied that had reached the request's `min_seq`.
        lagging: names of the shards that had not.
    """

    __slots__ = ("_timer", "deadline", "future", "kept", "lagging", "request", "where")

    def __init__(
        self, request: SearchRequest, deadline: float, where: str = "", kept: Mapping[str, SearchReply] | None = None
    ) -> None:
        loop = asyncio.get_running_loop()
        self.request = request
        self.deadline = deadline
        self.where = where
        self.kept: dict[str, SearchReply] = dict(kept or {})
        self.lagging: set[str] = set()
        self.future: asyncio.Future[SearchReply | SearchError] = loop.create_future()
        self._timer: asyncio.TimerHandle | None = loop.call_later(deadline - time.monotonic(), self.expire)

    @property
    def done(self) -> bool:
        """Whether it is answered or its caller has gone."""
        return self.future.done()

    def resolve(self, outcome: SearchReply | SearchError) -> None:
        """Answer the request, unless it has been answered already."""
        self.take_over()
        if not self.future.done():
            self.future.set_result(outcome)

    def take_over(self) -> None:
        """Stop the timer: from here on the caller keeps the deadline."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def abandon(self) -> None:
        """Give the request up: its caller no longer waits."""
        self.take_over()
        self.future.cancel()

    def hear(self, shard: str, outcome: SearchReply | SearchError | None, version: str) -> None:
        """Note what a shard has made of a request with a `min_seq`."""
        if isinstance(outcome, SearchReply) and outcome.version == version:
            if outcome.seq >= self.request.min_seq:
                self.kept[shard] = outcome
            else:
                self.lagging.add(shard)
        elif isinstance(outcome, SequenceNotReached):
            self.lagging.add(shard)

    def expire(self) -> None:
        """Answer the request, which was not sent in time."""
        what = "no query vector was had" if self.request.vectors is None else "the request was not sent"
        self.resolve(DeadlineExceeded(f"{what} in time", self.where or None))
