"""The clients, the idle application and the CPU figures of `silverray bench http`; nothing here starts Ray."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from processes import PATIENCE_S

from silverray.benchmarks.common.clients import Traffic, post, run_clients
from silverray.benchmarks.common.processes import _name
from silverray.benchmarks.http.http import COLUMNS, CPU_COLUMNS, Window, _cpu_us, _figures
from silverray.benchmarks.http.idle import IdleArgs, describe_idle, is_idle
from silverray.cluster.config import ServeConfig
from silverray.cluster.serving.applications import describe_applications
from silverray.cluster.serving.layout import Layout

MARK = b'"score"'


class Server:
    """Answers each body's k with so many items, in two writes; every third reply lacks one if it is told to."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.short = False
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(PATIENCE_S)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length:")[1].split()[0])
                self.bodies.append(orjson.loads(await reader.readexactly(length)))
                items = self.bodies[-1]["k"] - (self.short and len(self.bodies) % 3 == 0)
                content = orjson.dumps({"items": [{"score": 0.5}] * items})
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content))
                await writer.drain()
                await asyncio.sleep(0.001)
                writer.write(content)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


def test_clients_send_the_bodies_in_turn_and_check_every_reply(server: Server) -> None:
    url = f"http://127.0.0.1:{server.port}/v1/search"
    requests = [post(url, orjson.dumps({"k": 3, "number": number}), "application/json") for number in range(5)]
    traffic = run_clients(url, requests, 2, 0.2, mark=MARK, marks=3)
    assert traffic.wrong == 0
    assert 10 < len(traffic.latencies_s) < traffic.total == len(server.bodies)
    assert traffic.rate == pytest.approx(len(traffic.latencies_s) / traffic.seconds)
    assert min(traffic.latencies_s) >= 0.001
    assert {body["number"] for body in server.bodies} == set(range(5))


def test_a_reply_that_lacks_an_item_is_wrong(server: Server) -> None:
    url = f"http://127.0.0.1:{server.port}/v1/search"
    server.short = True
    traffic = run_clients(url, [post(url, b'{"k":3}', "application/json")], 1, 0.2, mark=MARK, marks=3)
    assert traffic.wrong == pytest.approx(len(traffic.latencies_s) / 3, abs=1)
    assert traffic.samples[0].count(MARK) == 2


def test_cpu_time_is_shared_out_by_what_used_it() -> None:
    names = {
        "ray::ServeReplica:silverray-shard-0:shard.search": "silverray-shard-0",
        "ray::ServeReplica:idle-router:router": "idle-router",
        "ray::ServeController.listen_for_change": "ray",
        "/opt/ray/raylet/raylet --store": "ray",
        "/opt/haproxy -f x": "haproxy",
        "python -m pytest": None,
    }
    assert {command: _name(command) for command in names} == names
    before = {"silverray-router": 1.0, "haproxy": 2.0}
    after = {"silverray-router": 1.3, "silverray-shard-0": 0.1, "silverray-shard-1": 0.2, "haproxy": 2.1, "ray": 0.05}
    spent = _cpu_us("silverray", before, after, Traffic(1.0, [0.1] * 500, 0, 1_000, 0.01))
    expected = {"router": 300, "shards": 300, "haproxy": 100, "ray": 50, "clients": 20}
    assert spent == pytest.approx(expected)


def test_a_row_has_what_the_tables_show() -> None:
    traffic = Traffic(2.0, [0.001, 0.002, 0.009], 1, 4, 0.1)
    cpu = dict.fromkeys(("router", "shards", "haproxy", "ray", "clients"), 10.0)
    row: dict[str, Any] = {"form": "JSON", "clients": 1, "application": "idle", "rate_ratio": 0.5, "p50_ratio": 1.0}
    row |= _figures([Window(traffic, cpu)])
    assert (row["rate_p50"], row["p50_ms"], row["wrong"]) == (1.0, 2.0, 1)
    assert [template.format_map(row) for template in (COLUMNS | CPU_COLUMNS).values()]


def test_the_idle_application_is_deployed_like_the_real_one() -> None:
    catalog: Any = SimpleNamespace(path="/snapshots/v1", has_user_tower=False)
    config = ServeConfig(snapshots=Path("/snapshots"), shards=2)
    real = describe_applications(config, catalog, Layout.spread("v1", 4, 2))[-1]
    args = IdleArgs(shards=2, dimension=4, slots=2, contents={"application/json": b"\x00{}"})
    idle = describe_idle(args, real)
    assert [one.name for one in idle] == ["idle-0", "idle-1", "idle-router"]
    assert all(is_idle(one.name) for one in idle)
    assert not is_idle(real.name)
    hidden = {"name"}
    ours = real.deployments[0].model_dump(exclude_unset=True, exclude=hidden)
    assert [one.deployments[0].model_dump(exclude_unset=True, exclude=hidden) for one in idle] == [ours] * 3
    assert IdleArgs.model_validate_json(idle[-1].args["json"]) == args
