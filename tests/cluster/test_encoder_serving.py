"""Users over HTTP on a real Ray cluster: tables in a group of ranks of which one is killed, and a killed encoder."""

import asyncio
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from ports import take_port
from processes import PATIENCE_S, gone, named
from saved_tower import save_tower

from silverray.cluster.config import EncoderConfig, HttpConfig, ServeConfig, TableGroupConfig
from silverray.cluster.loadtest.loadtest import LoadPlan, Outcome, run_load
from silverray.cluster.serving.readiness import ServiceError
from silverray.cluster.serving.service import Service, start
from silverray.shard.local import LocalSearcher
from silverray.shard.publish.builder import publish
from silverray.shard.schema.schema import Schema
from silverray.shard.towers.encoder import TowerEncoder

pytestmark = pytest.mark.ray

GROUP = TableGroupConfig(ranks=2, host_bytes=450_000)
USERS = [{"history": [3 * n, 6 * n], "age": n, "country": "US", "user": n} for n in range(50)]


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory, films: Any) -> Path:
    """A snapshot store with one version that has a user tower."""
    folder = tmp_path_factory.mktemp("towers")
    model = save_tower(folder / "model", films.table["film"].to_numpy(), 16)
    schema, out = Schema.parse(films.schema), folder / "store"
    publish(films.table, schema, out, vectors=films.vectors, model=model, partitions=8, clusters=24, version="v1")
    return out


@pytest.fixture(scope="module")
def config(towers: Path) -> ServeConfig:
    ports = [take_port() for _ in range(3)]
    http = HttpConfig(port=ports[0], stats_port=ports[1], metrics_port=ports[2])
    encoder = EncoderConfig(group=GROUP)
    return ServeConfig(name="users", snapshots=towers, threads=1, deadline_ms=10_000.0, http=http, encoder=encoder)


@pytest.fixture(scope="module")
def started(address: str, config: ServeConfig) -> Iterator[tuple[Service, float]]:
    """The service, and how many seconds its start has taken on this machine."""
    began = time.monotonic()
    service = start(config, address, timeout_s=PATIENCE_S)
    yield service, time.monotonic() - began
    service.detach()


@pytest.fixture(scope="module")
def service(started: tuple[Service, float]) -> Service:
    return started[0]


def ranks() -> set[int]:
    """Processes of the group's ranks, on the cluster that the tests' process has started."""
    return named("TableRank")


def tables(service: Service) -> dict[str, Any]:
    document: dict[str, Any] = httpx.get(f"{service.url}/v1/status").json()["encoder"]["tables"]
    return document


def search(service: Service, user: dict[str, Any], deadline_ms: float = 20_000.0) -> httpx.Response:
    body = {"user": user, "k": 10, "deadline_ms": deadline_ms}
    return httpx.post(f"{service.url}/v1/search", json=body, timeout=PATIENCE_S)


def wait_for_users(service: Service, since: float) -> float:
    """Seconds until a user gets an answer again."""
    while search(service, USERS[0]).status_code != 200:
        assert time.monotonic() < since + PATIENCE_S, "the encoder did not come back"
        time.sleep(0.1)
    return time.monotonic() - since


async def load(service: Service, duration_s: float) -> tuple[list[Outcome], list[Outcome]]:
    """Half of the requests bring users, the others vectors."""
    vectors = np.random.default_rng(0).standard_normal((20, 16)).tolist()
    by_user = LoadPlan(
        url=service.url, bodies=[orjson.dumps({"user": user}) for user in USERS], rate=20, duration_s=duration_s
    )
    by_vector = LoadPlan(
        url=service.url, bodies=[orjson.dumps({"vector": v}) for v in vectors], rate=20, duration_s=duration_s, seed=1
    )
    return tuple(await asyncio.gather(run_load(by_user), run_load(by_vector)))  # type: ignore[return-value]


def test_users_get_what_their_vectors_get(service: Service, towers: Path) -> None:
    encoder = TowerEncoder.load(towers / "v1/model")
    vectors = asyncio.run(encoder.encode(USERS))[:, 0]
    encoder.close()
    want = LocalSearcher.open(towers / "v1", threads=1).search_batch(vectors, k=10)
    for user, ids, scores in zip(USERS, want.ids, want.scores, strict=True):
        items = search(service, user).json()["items"]
        np.testing.assert_allclose([item["score"] for item in items], scores, rtol=0, atol=1e-5)
        assert [item["id"] for item in items] == ids.tolist()
    told = tables(service)
    assert told["ready"] is True and max(told["rank_bytes"]) <= GROUP.host_bytes < sum(told["rank_bytes"])
    assert {shard["rank"] for shard in told["shards"]} == {0, 1}
    assert len(ranks()) == 2
    wrong = search(service, {"age": "old"})
    assert (wrong.status_code, wrong.json()["error"]["where"]) == (422, "user.age")


def test_a_killed_rank_under_load_costs_no_answer(started: tuple[Service, float]) -> None:
    service, start_s = started
    wait_for_users(service, time.monotonic())
    before, failures = ranks(), tables(service)["failures"]
    began = time.monotonic()
    threading.Timer(1.0, os.kill, (min(before), signal.SIGKILL)).start()
    by_user, by_vector = asyncio.run(load(service, 6.0))
    took = wait_for_users(service, began + 1.0)
    counts = [Counter(outcome.error for outcome in outcomes) for outcomes in (by_user, by_vector)]
    print(f"back after {took:.1f} s; by user {dict(counts[0])}, by vector {dict(counts[1])}")
    assert took < max(30, start_s), "to form a group takes less than to start all"
    assert set(counts[0]) <= {None, "encoder_unavailable", "deadline_exceeded"}
    assert counts[0]["encoder_unavailable"] > 0 and counts[0][None] > 0
    # New ranks start on the cores that the shards compute on, so a few requests may run out of time.
    assert set(counts[1]) <= {None, "deadline_exceeded"}
    assert counts[1]["deadline_exceeded"] <= len(by_vector) / 10
    assert not ranks() & before and len(ranks()) == 2
    assert tables(service)["failures"] == failures + 1


def test_a_killed_encoder_takes_its_ranks_along_and_comes_back(service: Service) -> None:
    wait_for_users(service, time.monotonic())
    before = ranks()
    (replica,) = service.instance.applications()["users-encoder"].deployments["encoder"].replicas
    assert replica.pid is not None
    os.kill(replica.pid, signal.SIGKILL)
    killed = time.monotonic()
    assert search(service, USERS[0], deadline_ms=500.0).status_code in (503, 504)
    print(f"encoder back after {wait_for_users(service, killed):.1f} s")
    assert gone(before) and len(ranks()) == 2


def test_tables_that_do_not_fit_end_the_start_with_the_numbers(
    address: str, config: ServeConfig, service: Service
) -> None:
    service.detach()
    small = EncoderConfig(group=TableGroupConfig(ranks=2, host_bytes=200_000))
    with pytest.raises(ServiceError, match=r"users-encoder: .*table 'users' takes 500.1 KiB, 250.1 KiB on each"):
        start(config.model_copy(update={"encoder": small}), address, timeout_s=PATIENCE_S)
