"""Compiles long filters beside the event loop, each request's until its deadline."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from silverray.shard.api import DeadlineExceeded, FilterError, InvalidRequest, SearchError, SearchRequest
from silverray.shard.engine.validation import Validator
from silverray.shard.filter.compiler import CompiledFilter
from silverray.shard.filter.deadline import Deadline

MAX_FILTER_TEXT = 256 << 10
"""Most characters that the different filters of one call may have together: 256 queries with 1,024 each. Ordinary
terms of that length compile within a second or two, the slowest shapes take longer: deadlines end the waiting."""
_INLINE_TEXT = 256
"""Characters that are compiled within the event loop: about 15 terms, which take 1 to 4 ms, 5 on a busy machine."""

Compiled = CompiledFilter | SearchError


class FilterCompiler:
    """Compiles the filters of requests that are not compiled yet; belongs to one event loop.

    Args:
        validator: keeps what is compiled.
    """

    def __init__(self, validator: Validator) -> None:
        self._validator = validator
        # One thread of its own: more would not be faster in Python, and long bodies and replies use the default pool.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="filters")

    async def compile(
        self, requests: Sequence[SearchRequest], wheres: Sequence[str], deadlines: Sequence[float]
    ) -> list[Compiled | None]:
        """Compile the filters of requests where that takes long; each different one once.

        Args:
            requests: as the client made them.
            wheres: the path of each in its body.
            deadlines: when each must be answered, on the clock of `time.monotonic`.

        Returns:
            For each request its compiled filter; None where that is done at once when it is checked; or what is wrong:
            its filter, or that its deadline came first.
        """
        latest: dict[str, float] = {}
        for request, deadline in zip(requests, deadlines, strict=True):
            if isinstance(request.filter, str):
                latest[request.filter] = max(latest.get(request.filter, deadline), deadline)
        size = sum(map(len, latest))
        if size <= _INLINE_TEXT:
            return [None] * len(requests)
        if size > MAX_FILTER_TEXT:
            message = (
                f"expected different filters of at most {MAX_FILTER_TEXT:,} characters together, got {size:,}: send"
                " fewer queries in one body, or shorter filters"
            )
            return [InvalidRequest(message, "queries" if wheres[0] else "filter") for _ in requests]
        new = [text for text in latest if self._validator.filters.find(text) is None]
        if sum(map(len, new)) <= _INLINE_TEXT:
            return [None] * len(requests)
        loop = asyncio.get_running_loop()
        jobs = {text: loop.run_in_executor(self._executor, self._compile, text, latest[text]) for text in new}
        outcomes = zip(requests, wheres, deadlines, strict=True)
        return [await self._settled(request, where, deadline, jobs) for request, where, deadline in outcomes]

    def close(self) -> None:
        """Drop what waits."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _settled(
        self, request: SearchRequest, where: str, deadline: float, jobs: dict[str, asyncio.Future[Compiled]]
    ) -> Compiled | None:
        if not isinstance(request.filter, str) or request.filter not in jobs:
            return None
        job = jobs[request.filter]
        if not job.done():
            await asyncio.wait([job], timeout=max(deadline - time.monotonic(), 0))
        outcome: Compiled = job.result() if job.done() else _late()
        if isinstance(outcome, DeadlineExceeded):
            return DeadlineExceeded(outcome.message, where or None)
        if isinstance(outcome, FilterError):
            return FilterError(
                outcome.message,
                outcome.position,
                outcome.expected,
                outcome.hint,
                f"{where}.filter" if where else "filter",
            )
        return outcome

    def _compile(self, text: str, deadline: float) -> Compiled:
        try:
            until = Deadline(deadline)
            until.check()
            return self._validator.filters.compile(text, until)
        except (DeadlineExceeded, FilterError) as error:
            return error


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the filter was not compiled in time")
