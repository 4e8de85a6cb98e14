"""Closed-loop HTTP clients: each asks again as soon as it is answered; cheap enough to share the machine they load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"
SETTLE_S = 0.5
"""The moment before a window that does not count, in which connections are made and batches fill."""


@dataclass(slots=True)
class Traffic:
    """What clients saw in one window of time.

    Attributes:
        seconds: length of the window.
        latencies_s: of every request that was answered in it.
        wrong: replies that were not what was expected.
        total: requests that were answered in it and in the moments before and after, which do not count.
        client_cpu_s: CPU time of the clients themselves.
        samples: the first wrong replies.
    """

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    wrong: int = 0
    total: int = 0
    client_cpu_s: float = 0.0
    samples: list[bytes] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Right answers per second."""
        return (len(self.latencies_s) - self.wrong) / self.seconds


def post(url: str, body: bytes, media_type: str) -> bytes:
    """The bytes of an HTTP/1.1 request that posts a body and keeps the connection."""
    parts = urlsplit(url)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: {media_type}\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def run_clients(
    url: str, requests: Sequence[bytes], clients: int, seconds: float, *, mark: bytes, marks: int
) -> Traffic:
    """Ask with a number of clients for a while, after a moment that does not count.

    Args:
        url: where they connect; path and headers are in the requests.
        requests: whole HTTP requests, sent in turn.
        clients: connections, each with one request at a time.
        seconds: how long.
        mark: what a right reply has in its body once per item.
        marks: how often.
    """
    parts = urlsplit(url)
    assert parts.hostname is not None and parts.port is not None, "the URL names its port"
    return asyncio.run(_run(parts.hostname, parts.port, requests, clients, seconds, mark, marks))


async def _run(
    host: str, port: int, requests: Sequence[bytes], clients: int, seconds: float, mark: bytes, marks: int
) -> Traffic:
    loop = asyncio.get_running_loop()
    crowd = _Crowd(requests, mark, marks)
    connections = [await loop.create_connection(lambda: _Client(crowd), host, port) for _ in range(clients)]
    await asyncio.sleep(SETTLE_S)
    traffic = crowd.traffic = Traffic()
    start, cpu = time.perf_counter(), time.thread_time()
    await asyncio.sleep(seconds)
    traffic.seconds = time.perf_counter() - start
    traffic.client_cpu_s = time.thread_time() - cpu
    crowd.traffic = Traffic()
    crowd.going = False
    await asyncio.wait([client.ended for _, client in connections], timeout=seconds + 5.0)
    for transport, _ in connections:
        transport.close()
    traffic.total = crowd.turns
    return traffic


class _Crowd:
    """What the clients share."""

    def __init__(self, requests: Sequence[bytes], mark: bytes, marks: int) -> None:
        self.traffic = Traffic()
        self.going = True
        self.mark = mark
        self.marks = marks
        self._requests = requests
        self.turns = 0

    def next(self) -> bytes:
        self.turns += 1
        return self._requests[self.turns % len(self._requests)]


class _Client(asyncio.Protocol):
    """One connection."""

    def __init__(self, crowd: _Crowd) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._crowd = crowd
        self._buffer = b""
        self._sent = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer = self._buffer + data if self._buffer else data
        end = buffer.find(_HEAD_END)
        if end < 0:
            return
        head = buffer[:end].lower()
        start = head.index(_LENGTH) + len(_LENGTH)
        stop = head.find(b"\r\n", start)
        if len(buffer) < end + len(_HEAD_END) + int(head[start : stop if stop >= 0 else end]):
            return
        self._buffer = b""
        self._judge(buffer)
        if self._crowd.going:
            self._ask()
        else:
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._crowd.going:
            self._crowd.traffic.wrong += 1
            self._crowd.traffic.latencies_s.append(time.perf_counter() - self._sent)
        self._end()

    def _judge(self, reply: bytes) -> None:
        crowd = self._crowd
        crowd.traffic.latencies_s.append(time.perf_counter() - self._sent)
        if not reply.startswith(b"HTTP/1.1 200") or reply.count(crowd.mark) != crowd.marks:
            crowd.traffic.wrong += 1
            if len(crowd.traffic.samples) < 3:
                crowd.traffic.samples.append(reply)

    def _ask(self) -> None:
        assert self._transport is not None
        self._sent = time.perf_counter()
        self._transport.write(self._crowd.next())

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
