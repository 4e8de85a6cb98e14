"""Changes of a running service on a real Ray cluster: what serves goes on if the new version is bad or unwanted."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ports import take_port
from processes import PATIENCE_S

from silverray.cluster.serving.records import read_records
from silverray.shard.publish.builder import publish
from silverray.shard.schema.schema import Schema

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, store: Path, films: Any) -> Path:
    """A store with versions v1 and v2, and `v1.yaml` and `v2.yaml`, which serve them under one name."""
    folder = tmp_path_factory.mktemp("change")
    shutil.copytree(store / "v1", folder / "store/v1")
    schema = Schema.parse(films.schema)
    publish(films.table, schema, folder / "store", vectors=films.vectors, partitions=16, clusters=24, version="v2")
    ports = dict(zip(("port", "stats_port", "metrics_port"), (take_port() for _ in range(3)), strict=True))
    for version in ("v1", "v2"):
        document = {"name": "changing", "snapshots": str(folder / "store"), "version": version, "http": ports}
        (folder / f"{version}.yaml").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module", autouse=True)
def home(folder: Path, address: str) -> Iterator[None]:
    """An account of its own, with this one's token: other runs of these tests serve under the same name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(Path.home() / ".ray/auth_token"))
        patch.setenv("HOME", str(folder / "home"))
        yield


def serve(folder: Path, version: str, address: str, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "silverray.cluster.cli", "serve", str(folder / f"{version}.yaml")]
    return subprocess.Popen(
        [*command, "--address", address, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def url(folder: Path, address: str, home: None) -> Iterator[str]:
    """Where version v1 is served, detached."""
    out, err = serve(folder, "v1", address, "--detach").communicate(timeout=PATIENCE_S)
    assert out.startswith("ready "), err
    yield out.split()[1]
    stop = [sys.executable, "-m", "silverray.cluster.cli", "stop", "changing"]
    assert subprocess.run(stop, timeout=PATIENCE_S).returncode == 0


def served(url: str) -> tuple[str, bool]:
    """The layout that serves, and whether all of it answers."""
    return httpx.get(f"{url}/v1/status").json()["layout"]["tag"], httpx.get(f"{url}/readyz").status_code == 200


def test_a_damaged_version_leaves_what_serves_alone(folder: Path, address: str, url: str) -> None:
    victim = folder / "store/v2/partitions/00003/payload.arrow"
    good = victim.read_bytes()
    victim.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    before = httpx.get(f"{url}/v1/status").json()["router"]
    process = serve(folder, "v2", address)
    _, err = process.communicate(timeout=PATIENCE_S)
    victim.write_bytes(good)
    assert process.returncode == 1
    error = f"error: {victim}: altered or damaged (its SHA-256 does not match the manifest)"
    assert err.splitlines()[-1] == f"{error}; what served before (v1/1) was not touched"
    assert served(url) == ("v1/1", True) and httpx.get(f"{url}/v1/status").json()["router"] == before
    assert [record.url for record in read_records() if record.name == "changing"] == [url]


def test_an_interrupted_change_puts_back_what_served(folder: Path, address: str, url: str) -> None:
    process = serve(folder, "v2", address)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("starting changing-"):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    assert "interrupted; what served before (v1/1) was put back and answers\n" in err
    assert served(url) == ("v1/1", True)
    assert [record.url for record in read_records() if record.name == "changing"] == [url]
