import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from processes import PATIENCE_S

from silverray.cluster.serving.service import Service
from silverray.shard.publish.builder import publish
from silverray.shard.schema.schema import Schema

_CLUSTER = """
import ray, sys
while True:
    try:
        context = ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        break
    except Exception as error:  # Ray gives a node 30 s, which a busy machine may not have
        print(error, file=sys.stderr, flush=True)
        if "timed out during startup" not in str(error):
            raise
        ray.shutdown()
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
"""
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's workers otherwise run at nice 15, and come after all else that the machine does: other tests too.
    "RAY_worker_niceness": "0",
}
DIMENSION = 16
ITEMS = 3_000
SCHEMA = """
id: film
vector: {dimension: 16, metric: cosine}
fields:
  year: {type: int}
  country: {type: category, nullable: true}
  genres: {type: tags}
"""


class Films(NamedTuple):
    """A catalog before it is published."""

    table: pa.Table
    vectors: NDArray[np.float32]
    schema: str


@pytest.fixture(scope="session")
def films() -> Films:
    rng = np.random.default_rng(5)
    countries = np.array(["US", "FR", "DE", None], dtype=object)
    genres = np.array(["Drama", "Comedy", "Action", "War"])
    table = pa.table(
        {
            "film": np.arange(ITEMS, dtype=np.int64) * 3,
            "year": rng.integers(1930, 2020, ITEMS),
            "country": pa.array(countries[rng.integers(0, 4, ITEMS)].tolist(), pa.string()),
            "genres": [genres[rng.random(4) < 0.4].tolist() for _ in range(ITEMS)],
        }
    )
    return Films(table, rng.standard_normal((ITEMS, DIMENSION)).astype(np.float32), SCHEMA)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory, films: Films) -> Path:
    """A snapshot store with one small version, v1."""
    folder = tmp_path_factory.mktemp("store")
    schema = Schema.parse(films.schema)
    publish(films.table, schema, folder, vectors=films.vectors, partitions=16, clusters=24, version="v1")
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An account of its own, so that records of services are not shared with the person who runs the tests."""
    folder = tmp_path / "home"
    monkeypatch.setattr(Path, "home", lambda: folder)  # not $HOME: Ray's own token stays where it is
    return folder


@pytest.fixture
def echo() -> Iterator[str]:
    """URL of a service that answers every search with the item of its body's `k`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
            item = {"id": body["k"], "score": 0.5, "fields": {}}
            coverage = {"shards": 2, "answered": 1, "items_fraction": 0.5, "degraded": True}
            self._send({"items": [item], "coverage": coverage, "version": "v1", "seq": 0})

        def do_GET(self) -> None:
            self._send({"lateness_ms": {"buckets": [[0.0, 7]]}, "router": "one"})

        def _send(self, document: object) -> None:
            content = orjson.dumps(document)
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Address of a Ray cluster that somebody else runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", _CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **_SETTINGS},
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(timeout=PATIENCE_S)
        process.stdout.close()


@pytest.fixture
def connections() -> Iterator[list[Service]]:
    """Services that a test has made; whatever it leaves connected is disconnected."""
    services: list[Service] = []
    yield services
    for service in services:
        service.detach()
