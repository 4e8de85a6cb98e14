"""A real Ray cluster: shard counts, long replies, a killed replica, the command line."""

import asyncio
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from ports import take_port
from processes import PATIENCE_S, descendants, gone
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from silverray.cluster.cli import app
from silverray.cluster.config import HttpConfig, ServeConfig
from silverray.cluster.loadtest.lateness import LatenessProbe
from silverray.cluster.loadtest.loadtest import LoadPlan, Outcome, run_load
from silverray.cluster.serving.service import Service, start
from silverray.kernels.cpu.simd import implementation
from silverray.router.http.client import HttpSearcher
from silverray.shard.api import SearchReply, SearchRequest
from silverray.shard.searcher import ShardSearcher
from silverray.shard.snapshot.files import INDEX, MANIFEST, write_manifest

pytestmark = pytest.mark.ray

FILTERS = [None, 'country = "US"', 'year >= 2000 and not genres any ("Drama")', "country is null", "year < 1900"]


@pytest.fixture(scope="module")
def config(store: Path) -> ServeConfig:
    ports = [take_port() for _ in range(3)]
    http = HttpConfig(port=ports[0], stats_port=ports[1], metrics_port=ports[2])
    return ServeConfig(name="films", snapshots=store, shards=4, threads=1, deadline_ms=200.0, http=http)


def make_requests(count: int, seed: int = 0) -> list[SearchRequest]:
    rng = np.random.default_rng(seed)
    return [
        SearchRequest(
            vectors=rng.standard_normal((1, 16)).astype(np.float32),
            filter=FILTERS[number % len(FILTERS)],
            k=int(rng.choice([1, 10, 100, 2_000, 10_000])),
            fields=("year",) if number % 3 == 0 else (),
            n_probe=6,
            refine="all",
            timeout_s=30.0,
        )
        for number in range(count)
    ]


def ask(url: str, requests: list[SearchRequest]) -> list[SearchReply]:
    async def search() -> list[Any]:
        replies: list[Any] = []
        sizes = np.random.default_rng(0)
        async with HttpSearcher(url) as searcher:
            while left := requests[len(replies) :]:
                replies += await searcher.search(left[: int(sizes.integers(1, 65))])
        return replies

    outcomes = asyncio.run(search())
    errors = [outcome for outcome in outcomes if not isinstance(outcome, SearchReply)]
    assert not errors
    return outcomes


@pytest.mark.parametrize("shards", [1, 4])
def test_answers_do_not_depend_on_the_number_of_shards(
    address: str, config: ServeConfig, connections: list[Service], shards: int
) -> None:
    service = start(config.model_copy(update={"shards": shards}), address, timeout_s=PATIENCE_S)
    connections.append(service)
    requests = make_requests(500)
    local = ShardSearcher.open(config.snapshots / "v1", threads=1)
    expected = asyncio.run(local.search(requests))
    for request, got, want in zip(requests, ask(service.url, requests), expected, strict=True):
        assert isinstance(want, SearchReply)
        assert (got.coverage.shards, got.coverage.answered, got.coverage.items_fraction) == (shards, shards, 1.0)
        np.testing.assert_allclose(got.scores, want.scores, rtol=0, atol=1e-6)
        assert same_items(got, want)
        assert len(got.scores) <= request.k
        if request.fields and len(got.keys) and np.array_equal(got.keys, want.keys):
            assert got.fields["year"] == want.fields["year"]
    document = httpx.get(f"{service.url}/v1/status").json()
    assert document["layout"] == {"tag": f"v1/{shards}", "shards": shards}
    assert document["throughput_optimized"] is True
    assert len(document["applications"]) == shards + 1
    assert len(document["replicas"]) == shards
    assert {replica["kernels"] for replica in document["replicas"].values()} == {implementation()}


def same_items(got: SearchReply, want: SearchReply) -> bool:
    """Whether ids differ only where scores are within 1e-6 of each other."""
    differ = np.flatnonzero(got.keys != want.keys)
    gaps = np.abs(np.diff(want.scores, prepend=np.inf, append=-np.inf))
    return bool(np.all(np.minimum(gaps[:-1], gaps[1:])[differ] <= 2e-6))


def test_replies_of_many_megabytes_arrive(address: str, config: ServeConfig, connections: list[Service]) -> None:
    service = start(config, address, timeout_s=PATIENCE_S)
    connections.append(service)
    requests = [replace(request, k=10_000, filter=None, n_probe=24) for request in make_requests(64)]
    replies = ask(service.url, requests)
    items = service_items(service.url)
    assert [len(reply.keys) for reply in replies] == [min(10_000, items)] * 64
    assert not any(reply.coverage.degraded for reply in replies)


def service_items(url: str) -> int:
    return int(httpx.get(f"{url}/v1/schema").json()["items"])


def test_a_killed_shard_degrades_replies_until_ray_restarts_it(
    address: str, config: ServeConfig, connections: list[Service]
) -> None:
    service = start(config, address, timeout_s=PATIENCE_S)
    connections.append(service)
    vector = np.random.default_rng(1).standard_normal(16).tolist()
    plan = LoadPlan(url=service.url, bodies=[b""], rate=50, duration_s=3)
    slow = slowness(replace(plan, bodies=[orjson.dumps({"vector": vector, "deadline_ms": 20_000})]))
    plan = replace(plan, bodies=[orjson.dumps({"vector": vector, "deadline_ms": 200 * slow})])
    quiet = LatenessProbe(service.url)
    before = asyncio.run(run_load(plan))
    steady = quiet.measure()

    (replica,) = service.instance.applications()["films-shard-0"].deployments["shard"].replicas
    assert replica.pid is not None
    killing = threading.Timer(1.0, os.kill, (replica.pid, signal.SIGKILL))
    killing.start()
    during = asyncio.run(run_load(replace(plan, duration_s=4, seed=1)))
    killing.join()
    wait_for_full_coverage(service.url, vector)
    again = LatenessProbe(service.url)
    after = asyncio.run(run_load(replace(plan, seed=2)))
    late = again.measure()

    (successor,) = service.instance.applications()["films-shard-0"].deployments["shard"].replicas
    assert successor.pid != replica.pid
    assert counts(before) == (len(before), 0) and counts(after) == (len(after), 0)
    errors, (_, degraded) = Counter(o.error for o in during if o.error), counts(during)
    print(f"while it was down: {degraded} of {len(during)} degraded, errors {dict(errors)}; lateness {steady}, {late}")
    # The new replica starts on the cores that the others compute on, so a few requests may run out of time, or be
    # refused because they would; more of them where other work has slowed the machine before.
    assert set(errors) <= {"deadline_exceeded", "overloaded"}
    assert errors.total() <= len(during) / 20 * slow
    assert degraded > len(during) / 4
    assert steady is not None and late is not None
    assert max(steady.max_ms, late.max_ms) <= 50.0 * slow


def slowness(plan: LoadPlan) -> float:
    """By how much other work on the machine stretches time: 1 if no answer takes over 50 ms."""
    return max(1.0, max(outcome.latency_s for outcome in asyncio.run(run_load(plan))) / 0.05)


def counts(outcomes: list[Outcome]) -> tuple[int, int]:
    """Replies, and those that were degraded."""
    return sum(o.error is None for o in outcomes), sum(o.degraded for o in outcomes)


def wait_for_full_coverage(url: str, vector: list[float]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    body = {"vector": vector, "min_coverage": 1.0}
    while httpx.post(f"{url}/v1/search", json=body).status_code != 200:
        assert time.monotonic() < deadline, "the shard did not come back"
        time.sleep(0.1)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "silverray.cluster.cli", *map(str, arguments)]


@pytest.fixture
def account(tmp_path: Path) -> dict[str, str]:
    """Environment of an account of its own, so that its records of services are its own."""
    return {**os.environ, "HOME": str(tmp_path / "home")}


def ray_token() -> dict[str, str]:
    """For an account of its own, on a cluster of this one."""
    return {"RAY_AUTH_TOKEN_PATH": str(Path.home() / ".ray/auth_token")}


def run(account: dict[str, str], *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=account, capture_output=True, text=True, timeout=PATIENCE_S)


def run_here(account: dict[str, str], *arguments: str | Path) -> Result:
    """The same without a process of its own, which takes seconds to import what it needs."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HOME", "RAY_AUTH_TOKEN_PATH"):
            if name in account:
                patch.setenv(name, account[name])
        return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.mark.parametrize("told", [False, True], ids=["its terminal is closed", "it is told to stop"])
def test_serve_beside_a_clone_answers_until(tmp_path: Path, store: Path, account: dict[str, str], told: bool) -> None:
    """Ray has workers look in the working directory first, where another package may have our name."""
    fake = tmp_path / "silverray"
    (fake / "cluster/serving").mkdir(parents=True)
    for name in ("__init__.py", "cluster/__init__.py", "cluster/serving/deployments.py", "cluster/cli.py"):
        (fake / name).write_text("raise SystemExit('not the installed package')")
    (tmp_path / "c.yaml").write_text(
        f"{{snapshots: {store}, name: beside, http: {{port: {0 if told else take_port()}}}}}"
    )
    program = str(Path(sys.executable).parent / "silverray")
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execve(program, [program, "serve", "c.yaml", "--shards", "2"], account)
    said = b""
    while (ready := re.search(rb"ready (http://127\.0\.0\.1:\d+)\s", said)) is None:
        said += os.read(terminal, 4_096)
    (reply,) = ask(ready[1].decode(), make_requests(1))
    assert reply.coverage.shards == 2
    children = descendants(pid)
    assert len(children) > 3
    if told:
        os.kill(pid, signal.SIGTERM)
    else:
        os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert gone(children)
    if told:
        os.close(terminal)
    assert not list((tmp_path / "home/.cache/silverray/services").glob("*.json"))


def test_a_detached_service_is_found_and_stopped(tmp_path: Path, store: Path, account: dict[str, str]) -> None:
    (tmp_path / "c.yaml").write_text(f"{{name: away, snapshots: {store}, http: {{port: 0}}}}")
    try:
        served = run(account, "serve", tmp_path / "c.yaml", "--detach")
        assert served.returncode == 0, served.stderr
        url = served.stdout.split()[1]
        assert httpx.get(f"{url}/readyz").status_code == 200
        (status,) = orjson.loads(run_here(account, "status", "--json").stdout)
        assert (status["service"], status["version"], status["url"]) == ("away", "v1", url)
        pids = {status["pid"]} | descendants(status["pid"])
        again = run_here(account, "serve", tmp_path / "c.yaml", "--detach")
        assert again.exit_code != 0 and "served by another process" in again.stderr
    finally:
        stopped = run(account, "stop", "away")
    assert stopped.returncode == 0, stopped.stderr
    assert gone(pids)
    assert not list((tmp_path / "home/.cache/silverray/services").glob("*.json"))


def test_a_service_on_an_existing_cluster_is_left_running_and_stopped(
    tmp_path: Path, store: Path, address: str, config: ServeConfig, account: dict[str, str]
) -> None:
    http = config.http.model_dump_json()
    (tmp_path / "c.yaml").write_text(f"{{name: films, snapshots: {store}, http: {http}}}")
    account |= ray_token()
    served = run(account, "serve", tmp_path / "c.yaml", "--address", address, "--detach")
    assert served.returncode == 0, served.stderr
    (reply,) = ask(served.stdout.split()[1], make_requests(1))
    assert reply.coverage.shards == 1
    stopped = run(account, "stop", "films")
    assert stopped.returncode == 0, stopped.stderr
    again = run_here(account, "stop", "films", "--address", address)
    assert again.exit_code == 2 and "no service 'films' runs" in again.stderr


def test_a_shard_that_does_not_fit_ends_serve_with_one_line(
    tmp_path: Path, store: Path, address: str, config: ServeConfig, account: dict[str, str]
) -> None:
    snapshot = Path(shutil.copytree(store / "v1", tmp_path / "store/v1"))
    manifest = json.loads((snapshot / MANIFEST).read_text())
    facts = {key: value for key, value in manifest.items() if key not in ("format", "files", "checksum")}
    more = 10**12
    facts["partition_items"][-1] += more
    index = load_file(snapshot / INDEX)
    index["sizes"][-1] += more
    save_file(index, snapshot / INDEX)
    (snapshot / MANIFEST).unlink()
    write_manifest(snapshot, facts)
    (tmp_path / "c.yaml").write_text(
        f"{{name: films, snapshots: {tmp_path}/store, shards: 2, http: {config.http.model_dump_json()}}}"
    )
    account |= ray_token()
    served = run(account, "serve", tmp_path / "c.yaml", "--address", address, "--detach")
    assert served.returncode == 1
    *progress, error = served.stderr.splitlines()
    assert error.startswith("error: films-shard-1: ") and served.stderr.endswith("\n")
    assert "shard needs " in error and "use more shards" in error
    stages = ("verifying ", "connecting to Ray", "starting films-", "waiting for ", "stopping what ", "putting back ")
    assert [line for line in progress if not line.startswith(stages)] == []
    assert run_here(account, "status").stdout == "no service was started from here\n"
