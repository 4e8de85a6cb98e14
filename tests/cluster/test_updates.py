"""Live updates over a real Ray cluster: seen by searches, and kept through kills of every kind of process."""

import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ports import take_port
from processes import PATIENCE_S, gone, named

from silverray.cluster.config import HttpConfig, LogConfig, ServeConfig
from silverray.cluster.log.folding import fold_log
from silverray.cluster.log.store import LogStore
from silverray.cluster.serving.service import Service, start
from silverray.router.http.client import SearchClient
from silverray.shard.api import SearchError
from silverray.shard.publish.builder import publish
from silverray.shard.schema.schema import Schema

pytestmark = pytest.mark.ray

ROUNDS = int(os.environ.get("SILVERRAY_KILLS", "4"))
KINDS = ("ray::LogWriter", "ServeReplica:live-shard", "ServeReplica:live-router")
BODY = 12  # new items of a body, and as many old ones
PAUSE_S = 0.05  # between bodies: a shard that was killed catches up with all of the log
YEAR = 3_000  # of no film that was published
FIRST = 1_000_000
PATIENT_MS = 30_000
"""Deadline of what must be done, however busy the machine is; others may run out of the service's second."""


@pytest.fixture(scope="module")
def config(store: Path, tmp_path_factory: pytest.TempPathFactory) -> ServeConfig:
    ports = [take_port() for _ in range(3)]
    http = HttpConfig(port=ports[0], stats_port=ports[1], metrics_port=ports[2])
    log = LogConfig(path=tmp_path_factory.mktemp("log") / "updates.db")
    return ServeConfig(name="live", snapshots=store, shards=2, threads=1, deadline_ms=1_000.0, http=http, log=log)


@pytest.fixture(scope="module")
def service(address: str, config: ServeConfig) -> Iterator[Service]:
    service = start(config, address, timeout_s=PATIENCE_S)
    yield service
    service.detach()  # what is left of it ends with the cluster


def item(id_: int, **fields: Any) -> dict[str, Any]:
    vector = np.random.default_rng(id_).standard_normal(16).tolist()
    return {"id": id_, "vector": vector, "fields": {"year": YEAR, "genres": ["Drama"], **fields}}


def found(client: SearchClient, filter_: str, min_seq: int) -> list[int]:
    vector = np.random.default_rng(0).standard_normal(16).tolist()
    body = {"vector": vector, "filter": filter_, "k": 10_000, "min_seq": min_seq, "min_coverage": 1.0}
    return [entry["id"] for entry in client.search(body | {"deadline_ms": PATIENT_MS})["items"]]


def test_writes_are_seen(service: Service) -> None:
    client = SearchClient(service.url)
    body = {"upsert": [item(FIRST), item(FIRST + 1, country="FR")], "wait": True, "deadline_ms": PATIENT_MS}
    reply = client.write(body)
    assert (reply["accepted"], reply["errors"], reply["applied"]) == (2, [], True)
    assert sorted(found(client, f"year = {YEAR}", 0)) == [FIRST, FIRST + 1]
    seq = client.write({"patch": [{"id": FIRST, "fields": {"country": "FR"}}], "deadline_ms": PATIENT_MS})["seq"]
    assert sorted(found(client, f'year = {YEAR} and country = "FR"', seq)) == [FIRST, FIRST + 1]
    seq = client.write({"delete": [FIRST, FIRST + 1, FIRST + 2], "deadline_ms": PATIENT_MS})["seq"]
    assert found(client, f"year = {YEAR}", seq) == []
    with pytest.raises(SearchError, match="has not reached sequence number"):
        client.search({"vector": [1.0] * 16, "min_seq": seq + 1, "deadline_ms": 1_000})
    status = client.get("/v1/status")
    assert (status["log"]["last"], status["log"]["epoch"], status["log"]["fenced"]) == (seq, 1, False)
    assert {reader["shard"] for reader in status["log"]["readers"]} == {"live-shard-0", "live-shard-1"}
    updates = [replica["updates"] for replica in status["replicas"].values()]
    assert all((one["applied"], one["lag"], one["error"]) == (seq, 0, None) for one in updates)
    assert sum(one["items"] for one in updates) == 3_000


class Writer(threading.Thread):
    """Writes new items and deletes old ones, a body at a time and each until it is acknowledged.

    At most 600 items are there at a time, so that one search can see them all.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self.sent: set[int] = set()
        self.present: set[int] = set()
        self.known = (0, frozenset[int]())  # an acknowledged number, and all that was deleted by then
        self.stopping = threading.Event()
        self.refused = 0
        self._client = SearchClient(url)

    def run(self) -> None:
        id_ = FIRST
        while not self.stopping.is_set():
            new = range(id_, id_ := id_ + BODY)
            old = [n - 50 * BODY for n in new]
            body = {"upsert": [item(n) for n in new], "delete": old}
            self.sent |= set(new)
            while True:
                try:
                    seq = self._client.write(body)["seq"]
                    break
                except SearchError:
                    self.refused += 1
                    time.sleep(0.05)
            self.present = (self.present | set(new)) - set(old)
            self.known = (seq, self.known[1] | set(old))
            self.stopping.wait(PAUSE_S)


def test_kills_lose_nothing_that_was_acknowledged(service: Service, config: ServeConfig) -> None:
    """Kill a process of each kind in turn, each after a random while."""
    client, writer, rng = SearchClient(service.url), Writer(service.url), random.Random(ROUNDS)
    assert config.log is not None
    items = sum(held(client))
    writer.start()
    searches = 0
    try:
        for number in range(ROUNDS):
            time.sleep(rng.uniform(0.0, 0.3))
            os.kill(rng.choice(sorted(named(KINDS[number % len(KINDS)]))), signal.SIGKILL)
            deadline = time.monotonic() + 1.0
            while time.monotonic() < deadline or not recovered(client, writer):
                seq, deleted = writer.known
                body = {"vector": [1.0] * 16, "filter": f"year = {YEAR}", "k": 10_000, "min_seq": seq}
                try:
                    ids = [entry["id"] for entry in client.search(body)["items"]]
                except SearchError:
                    continue
                assert not deleted & set(ids) and len(set(ids)) == len(ids)
                searches += 1
    finally:
        writer.stopping.set()
        writer.join(timeout=PATIENCE_S)
    assert not writer.is_alive() and searches > 0
    ids = found(client, f"year = {YEAR}", writer.known[0])
    assert set(ids) == writer.present and len(ids) == len(writer.present)
    assert sum(held(client)) == items + len(writer.present)
    assert client.get("/v1/status")["log"]["epoch"] == 1 + len(range(0, ROUNDS, len(KINDS)))
    print(f"{ROUNDS} kills, {len(writer.sent)} items in {writer.known[0]} writes, {writer.refused} refusals,", end=" ")
    print(f"{searches} searches")


def held(client: SearchClient) -> list[int]:
    """How many items each shard has."""
    return [replica["updates"]["items"] for replica in client.get("/v1/status")["replicas"].values()]


def recovered(client: SearchClient, writer: Writer) -> bool:
    """Whether a write that began after now was acknowledged, and all shards answer with it."""
    seq = writer.known[0]
    try:
        client.search({"vector": [1.0] * 16, "min_seq": seq + 2 * BODY, "min_coverage": 1.0, "deadline_ms": 5_000})
    except SearchError:
        return False
    return True


def test_a_restart_with_the_log_folded_in_shows_what_was_acknowledged(
    address: str, service: Service, config: ServeConfig, films: Any, tmp_path: Path
) -> None:
    store, schema = tmp_path / "store", Schema.parse(films.schema)
    shutil.copytree(config.snapshots, store)
    folded, seq = fold_log(store, None, 0, films.table, schema, films.vectors, "v1")
    publish(folded.items, schema, store, vectors=folded.vectors, version="v2", seq=seq, space="v1")
    (store / "v1").rename(tmp_path / "v1")  # so that the log is trimmed
    client = SearchClient(service.url)
    body = {"upsert": [item(FIRST - 1)], "delete": [found(client, f"year = {YEAR}", 0)[0]]}
    last = client.write(body | {"deadline_ms": PATIENT_MS})["seq"]
    before = set(found(client, f"year = {YEAR}", last))
    writers = named(KINDS[0])
    service.stop()
    assert writers and gone(writers) and not named(KINDS[0])
    assert config.log is not None
    log = LogStore(config.log.path)
    state = log.state()
    log.close()
    assert (seq, last) == (last - 2, state.last)
    with start(config.model_copy(update={"snapshots": store}), address, timeout_s=PATIENCE_S) as again:
        client = SearchClient(again.url)
        status = client.get("/v1/status")["log"]
        assert (status["epoch"], status["trimmed"], status["last"]) == (state.epoch + 1, seq, last)
        assert set(found(client, f"year = {YEAR}", 0)) == before  # replicas catch up before they are ready
