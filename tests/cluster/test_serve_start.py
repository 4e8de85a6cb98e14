"""What `serve` refuses before it starts anything."""

from __future__ import annotations

import json
import socket
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from silverray.cluster.config import ServeConfig
from silverray.cluster.log.claim import Claim
from silverray.cluster.log.store import LogStore
from silverray.cluster.serving import service
from silverray.cluster.serving.instance import ServeInstance
from silverray.cluster.serving.service import start
from silverray.cluster.strict_yaml import ConfigError


class StartedError(Exception):
    """Something was started."""


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise StartedError

    monkeypatch.setattr(service, "compile_kernels", refuse)
    monkeypatch.setattr(ServeInstance, "connect", refuse)


def config(store: Path, folder: Path, **keys: Any) -> ServeConfig:
    (folder / "serve.yaml").write_text(json.dumps({"snapshots": str(store), "http": {"port": 0}, **keys}))
    return ServeConfig.load(folder / "serve.yaml")


@pytest.mark.parametrize("key", ["port", "stats_port", "metrics_port"])
def test_a_taken_port_is_told_before_anything_starts(store: Path, tmp_path: Path, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^http\.{key}: cannot listen on .*:{port}: Address already in use$"):
            start(config(store, tmp_path, http={"port": 0, key: port}))
    with pytest.raises(StartedError):
        start(config(store, tmp_path, http={"port": 0, key: port}))


def test_an_address_of_another_machine_is_told_before_anything_starts(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^http\.port: cannot listen on 192\.0\.2\.1:0: "):
        start(config(store, tmp_path, http={"host": "192.0.2.1", "port": 0}))


def foreign_database(folder: Path) -> Path:
    with closing(sqlite3.connect(folder / "films.db")) as connection:
        connection.execute("CREATE TABLE films (name TEXT)")
    return folder / "films.db"


def text_file(folder: Path) -> Path:
    (folder / "notes").write_text("no log, and longer than any header that SQLite would look for" * 20)
    return folder / "notes"


def below_a_file(folder: Path) -> Path:
    return text_file(folder) / "logs" / "updates.db"


def a_folder(folder: Path) -> Path:
    (folder / "updates.db").mkdir()
    return folder / "updates.db"


@pytest.mark.parametrize("make", [foreign_database, text_file, below_a_file, a_folder, lambda _: Path("/proc/x.db")])
def test_a_log_that_cannot_be_had_is_told_before_anything_starts(
    store: Path, tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    path = make(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConfigError) as raised:
        start(config(store, tmp_path, log={"path": str(path)}))
    assert str(raised.value).startswith(f"log.path: {path}: ") and "\n" not in str(raised.value)
    assert [one for one in sorted(tmp_path.iterdir()) if one.name != "serve.yaml"] == before


def test_a_log_that_can_be_had_is_left_as_it_is(store: Path, tmp_path: Path) -> None:
    with pytest.raises(StartedError):
        start(config(store, tmp_path, log={"path": "new/folder/updates.db"}))
    assert not (tmp_path / "new").exists()
    log = LogStore(tmp_path / "updates.db")
    with pytest.raises(StartedError):
        start(config(store, tmp_path, log={"path": "updates.db"}))
    assert log.append([(b"body", 1)]) == [1]  # it is not fenced
    log.close()


def test_the_log_of_a_store_may_be_missing_but_not_be_elsewhere(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = tmp_path / "gone" / "updates.db"
    monkeypatch.setattr(
        "silverray.cluster.log.claim.read_claim",
        lambda _: Claim(identity="1", path=str(claim), node="127.0.0.1"),
    )
    with pytest.raises(StartedError):
        start(config(store, tmp_path, log={"path": str(claim)}))
    with pytest.raises(ConfigError, match=r"log\.path: the updates of .* are in the log .*/gone/updates\.db on 127"):
        start(config(store, tmp_path, log={"path": "elsewhere.db"}))


def test_a_log_on_another_node_needs_a_cluster(store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"log\.node: expected none, or 127\.0\.0\.1 without --address, got 10\.0"):
        start(config(store, tmp_path, log={"path": "updates.db", "node": "10.0.0.5"}))
