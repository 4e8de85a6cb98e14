"""Open-loop load: requests leave at Poisson times, whether or not earlier ones have been answered."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy as np
import orjson
from numpy.typing import NDArray

from silverray.cluster.loadtest.truth import QueryFileError, Truth

Progress = Callable[[float, int, int], None]

SATURATED = "client_saturated"
_TIMED_OUT = "client_timeout"
_UNREACHABLE = "unreachable"
_BAD_REPLY = "bad_reply"
_TICK_S = 0.1
"""Smooth for a progress bar; each tick takes the client's time, which is measured."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request.

    Attributes:
        sent_s: when it should have left, in seconds since the start.
        latency_s: from then until its reply was there.
        error: code of the error; None for a reply.
        degraded: whether a reply lacks any shard.
        recall: of a reply, where the truth is known.
    """

    sent_s: float
    latency_s: float
    error: str | None = None
    degraded: bool = False
    recall: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPlan:
    """What load to make.

    Attributes:
        url: where the service answers.
        bodies: JSON bodies of `/v1/search`, used in turn.
        truths: for each body its true answer, or None to measure no recall.
        rate: mean requests per second.
        duration_s: how long requests leave.
        seed: of the times at which they leave.
        max_in_flight: most unanswered requests; one more counts as an error, it is never delayed.
        timeout_s: how long an answer may take.
    """

    url: str
    bodies: Sequence[bytes]
    truths: Sequence[Truth] | None = None
    rate: float = 500.0
    duration_s: float = 30.0
    seed: int = 0
    max_in_flight: int = 2_000
    timeout_s: float = 30.0

    def departures(self) -> NDArray[np.float64]:
        """`[n]` float64 times in seconds at which requests leave: a Poisson process, the same for a seed."""
        rng = np.random.default_rng(self.seed)
        mean = self.rate * self.duration_s
        gaps = rng.exponential(1 / self.rate, size=int(mean + 10 * mean**0.5 + 10))
        times = np.cumsum(gaps)
        return times[times < self.duration_s]


async def run_load(plan: LoadPlan, progress: Progress | None = None) -> list[Outcome]:
    """Make the load and wait for the answers.

    Args:
        plan: what load.
        progress: told, about ten times a second, the seconds since the start, the requests sent and the answers.

    Returns:
        One outcome per request, in the order of departure.
    """
    departures = plan.departures()
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=plan.timeout_s)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        generator = _Generator(plan, session, len(departures))
        watch = asyncio.create_task(generator.watch(progress)) if progress else None
        try:
            await generator.run(departures)
        finally:
            if watch:
                watch.cancel()
    if progress:
        progress(plan.duration_s, len(departures), len(departures))
    return [outcome for outcome in generator.outcomes if outcome is not None]


def read_queries(file: Path) -> list[bytes]:
    """Read JSON lines of search bodies.

    Raises:
        QueryFileError: a line is not a JSON object, or there is none.
    """
    try:
        lines = [line for line in file.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise QueryFileError(f"{file}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        try:
            good = isinstance(orjson.loads(line), dict)
        except orjson.JSONDecodeError as error:
            raise QueryFileError(f"{file}: line {number}: not JSON: {error}") from None
        if not good:
            raise QueryFileError(f"{file}: line {number}: expected a search body")
    if not lines:
        raise QueryFileError(f"{file}: holds no queries")
    return lines


class _Generator:
    """Requests on their way and what became of the others."""

    def __init__(self, plan: LoadPlan, session: aiohttp.ClientSession, total: int) -> None:
        self.outcomes: list[Outcome | None] = [None] * total
        self._plan = plan
        self._session = session
        self._url = f"{plan.url.rstrip('/')}/v1/search"
        self._start = 0.0
        self._sent = 0
        self._open: set[asyncio.Task[None]] = set()

    async def run(self, departures: NDArray[np.float64]) -> None:
        self._start = time.perf_counter()
        for number, departure in enumerate(departures.tolist()):
            wait = self._start + departure - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            elif number % 16 == 0:
                await asyncio.sleep(0)  # late: let replies be read nevertheless
            self._sent = number + 1
            if len(self._open) >= self._plan.max_in_flight:
                self.outcomes[number] = Outcome(departure, 0.0, SATURATED)
                continue
            task = asyncio.create_task(self._ask(number, departure))
            self._open.add(task)
            task.add_done_callback(self._open.discard)
        await asyncio.gather(*self._open)

    async def watch(self, progress: Progress) -> None:
        while True:
            progress(time.perf_counter() - self._start, self._sent, self._sent - len(self._open))
            await asyncio.sleep(_TICK_S)

    async def _ask(self, number: int, departure: float) -> None:
        place = number % len(self._plan.bodies)
        status, content, error = 0, b"", None
        try:
            async with self._session.post(
                self._url, data=self._plan.bodies[place], headers={"content-type": "application/json"}
            ) as response:
                content, status = await response.read(), response.status
        except TimeoutError:
            error = _TIMED_OUT
        except aiohttp.ClientError:
            error = _UNREACHABLE
        latency = time.perf_counter() - self._start - departure
        degraded, recall = False, None
        if error is None:
            error, degraded, recall = self._judge(place, status, content)
        self.outcomes[number] = Outcome(departure, latency, error, degraded, recall)

    def _judge(self, place: int, status: int, content: bytes) -> tuple[str | None, bool, float | None]:
        try:
            document = orjson.loads(content)
            if status != 200:
                return str(document["error"]["code"]), False, None
            results = document.get("results", [document])
            degraded = any(result["coverage"]["degraded"] for result in results)
            truths = self._plan.truths
            scores = [item["score"] for item in document["items"]] if truths else []
            return None, degraded, truths[place].recall(scores) if truths else None
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return _BAD_REPLY if status == 200 else f"http_{status}", False, None
