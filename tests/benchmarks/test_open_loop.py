"""The cheap open loop of the benchmarks against a server whose answers are known."""

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from silverray.benchmarks.common.clients import post
from silverray.benchmarks.common.open_loop import run_open_loop
from silverray.cluster.loadtest.loadtest import SATURATED

PATIENCE_S = 3.0
"""Only what hangs takes that long, on a busy machine too."""


@pytest.fixture
def url() -> Iterator[str]:
    """A server that does what a body says."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            wish = self.rfile.read(int(self.headers["content-length"]))
            if wish == b"hang":
                over.wait()
            if wish == b"close":
                self.close_connection = True
                return
            content = b'{"error":{"code":"overloaded"}}' if wish == b"refuse" else b'"score"' * int(wish[-1:] == b"l")
            self.send_response(503 if wish == b"refuse" else 502 if wish == b"page" else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that went away
    yield f"http://127.0.0.1:{server.server_port}/v1/search"
    over.set()
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_becomes_of_requests_is_told_for_each(url: str) -> None:
    wishes = ["full", "part", "refuse", "page", "close", "hang", "full"]
    requests = [post(url, wish.encode(), "application/json") for wish in wishes]
    departures = np.linspace(0.0, 0.054, 28)
    outcomes = run_open_loop(url, requests, departures, mark=b'"score"', marks=1, patience_s=PATIENCE_S)
    assert [outcome.sent_s for outcome in outcomes] == departures.tolist()
    errors = [None, None, "overloaded", "http_502", "unreachable", "client_timeout", None]
    assert [outcome.error for outcome in outcomes] == errors * 4
    assert [outcome.degraded for outcome in outcomes] == [wish == "part" for wish in wishes] * 4
    assert all(outcome.latency_s >= PATIENCE_S for outcome in outcomes if outcome.error == "client_timeout")


def test_a_request_without_a_connection_is_an_error_and_not_delayed(url: str) -> None:
    requests = [post(url, b"hang", "application/json")]
    outcomes = run_open_loop(url, requests, np.zeros(5), mark=b"", marks=1, patience_s=0.3, most=3)
    assert Counter(outcome.error for outcome in outcomes) == {"client_timeout": 3, SATURATED: 2}
