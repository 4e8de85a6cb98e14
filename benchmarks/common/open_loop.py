"""Open-loop HTTP load that costs as little as that of the closed loop, so that rates of the two can be compared.

`silverray loadtest` uses a whole HTTP client, 0.75 ms of a core for a request: at 530 a second on two cores it takes a
fifth of the machine from the service that it measures.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from silverray.cluster.loadtest.loadtest import SATURATED, Outcome

_HEAD_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CODE = re.compile(rb'"code": *"(\w+)"')
_TICK_S = 0.05
"""How often those whose patience is over are looked for."""


def run_open_loop(
    url: str,
    requests: Sequence[bytes],
    departures: NDArray[np.float64],
    *,
    mark: bytes,
    marks: int,
    patience_s: float,
    most: int = 2_000,
) -> list[Outcome]:
    """Send requests at given times, whether or not earlier ones have been answered.

    Args:
        url: where to connect; path and headers are in the requests.
        requests: whole HTTP requests, sent in turn.
        departures: `[n]` float64 ascending times in seconds.
        mark: what a whole reply has in its body once per item.
        marks: how often; a reply with fewer counts as degraded.
        patience_s: after which a client goes away, and its connection with it.
        most: connections; a request that would need one more counts as an error, it is never delayed.

    Returns:
        One outcome per request, in the order of departure.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None, "the URL names its port"
    crowd = _Crowd(parts.hostname, parts.port, requests, mark, marks, most, len(departures))
    return asyncio.run(crowd.run(departures, patience_s))


class _Crowd:
    """Connections, those that are free last in first out, and what became of requests."""

    def __init__(
        self, host: str, port: int, requests: Sequence[bytes], mark: bytes, marks: int, most: int, total: int
    ) -> None:
        self.free: list[_Connection] = []
        self.busy: set[_Connection] = set()
        self.outcomes: list[Outcome | None] = [None] * total
        self.start = 0.0
        self._host, self._port = host, port
        self._requests = requests
        self._mark, self._marks = mark, marks
        self._most = most
        self._opening: set[asyncio.Task[None]] = set()

    async def run(self, departures: NDArray[np.float64], patience_s: float) -> list[Outcome]:
        self.start = time.perf_counter()
        watching = asyncio.create_task(self._watch(patience_s))
        for number, due in enumerate(departures.tolist()):
            wait = due - (time.perf_counter() - self.start)
            if wait > 0:
                await asyncio.sleep(wait)
            elif number % 8 == 0:
                await asyncio.sleep(0)  # late: answers are read nevertheless
            self._send(number, due)
        while self.busy or self._opening:
            await asyncio.sleep(_TICK_S)
        watching.cancel()
        for connection in self.free:
            connection.transport.close()
        return [outcome for outcome in self.outcomes if outcome is not None]

    def judge(self, connection: _Connection, reply: bytes) -> None:
        """Note a reply."""
        full = reply.startswith(b"HTTP/1.1 200")
        code = None if full else _CODE.search(reply)
        error = None if full else code[1].decode() if code else f"http_{reply[9:12].decode(errors='replace')}"
        self.note(connection.number, connection.due, error, degraded=full and reply.count(self._mark) != self._marks)

    def note(self, number: int, due: float, error: str | None, *, degraded: bool = False) -> None:
        """Note what became of a request."""
        if self.outcomes[number] is None:
            latency_s = time.perf_counter() - self.start - due
            self.outcomes[number] = Outcome(due, latency_s, error, degraded)

    def _send(self, number: int, due: float) -> None:
        while self.free:
            connection = self.free.pop()
            if not connection.transport.is_closing():
                self.busy.add(connection)
                connection.ask(number, due, self._requests[number % len(self._requests)])
                return
        if len(self.busy) + len(self._opening) >= self._most:
            self.note(number, due, SATURATED)
            return
        task = asyncio.create_task(self._open(number, due))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _open(self, number: int, due: float) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: _Connection(self), self._host, self._port)
        except OSError:
            self.note(number, due, "unreachable")
            return
        self.busy.add(connection)
        connection.ask(number, due, self._requests[number % len(self._requests)])

    async def _watch(self, patience_s: float) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            now = time.perf_counter() - self.start
            for connection in [one for one in self.busy if now - one.due > patience_s]:
                self.note(connection.number, connection.due, "client_timeout")
                connection.transport.abort()
                self.busy.discard(connection)


class _Connection(asyncio.Protocol):
    """A connection, with one request at a time."""

    transport: asyncio.Transport

    def __init__(self, crowd: _Crowd) -> None:
        self.number, self.due = 0, 0.0
        self._crowd = crowd
        self._parts: list[bytes] = []
        self._missing: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def ask(self, number: int, due: float, request: bytes) -> None:
        """Send a request."""
        self.number, self.due = number, due
        self._parts, self._missing = [], None
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._parts.append(data)
        if self._missing is not None:
            self._missing -= len(data)
        else:
            start = b"".join(self._parts)
            end = start.find(_HEAD_END)
            if end < 0:
                return
            length = _LENGTH.search(start, 0, end)
            self._missing = end + len(_HEAD_END) + int(length[1] if length else 0) - len(start)
        if self._missing <= 0:
            self._crowd.judge(self, b"".join(self._parts))
            self._crowd.busy.discard(self)
            self._crowd.free.append(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self in self._crowd.busy:
            self._crowd.note(self.number, self.due, "unreachable")
            self._crowd.busy.discard(self)
