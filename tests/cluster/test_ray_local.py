"""Ray as `serve` starts it: nobody but this account reaches it."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray
from processes import PATIENCE_S

from silverray.cluster.config import HttpConfig, LimitsConfig, ServeConfig
from silverray.cluster.log.store import LogStore
from silverray.cluster.serving.instance import _environment, connect_ray
from silverray.cluster.serving.ray_local import private_folder
from silverray.cluster.strict_yaml import ConfigError

# In a process of its own, since Ray leaves threads and settings behind.
_START = """
import json, os, ray, subprocess, sys
import psutil  # Ray brings it
from silverray.cluster.serving.ray_local import start_ray, takes_calls_from_anybody

@ray.remote
class Worker:
    def look(self):
        return os.nice(0)

start_ray(2)
join = [sys.executable, "-c", sys.argv[1], ray.get_runtime_context().gcs_address]
joined = subprocess.run(join, capture_output=True, text=True)
worker = Worker.remote()
niceness = ray.get(worker.look.remote())
family = [psutil.Process(), *psutil.Process().children(recursive=True)]
listening = sorted({c.laddr.ip for p in family for c in p.net_connections("inet") if c.status == "LISTEN"})
said = {"nice": niceness, "listening": listening, "open": takes_calls_from_anybody()}
print(json.dumps(said | {"joined": joined.stdout + joined.stderr}))
"""
_JOIN = """
import os, sys
os.environ["RAY_AUTH_MODE"] = "token"
import ray
from silverray.cluster.serving.ray_local import join_ray
join_ray(sys.argv[1])
print(len(ray.nodes()))
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    http, limits = HttpConfig(max_connections=77, idle_s=9), LimitsConfig(max_deadline_ms=1_500)
    return _environment(ServeConfig(snapshots=tmp_path, http=http, limits=limits), own=True)


@pytest.mark.ray
def test_a_cluster_of_ones_own_listens_on_loopback_with_the_priority_of_its_owner(tmp_path: Path) -> None:
    short = Path("/tmp") / f"sr-{os.getpid()}"  # sockets have short paths only
    short.mkdir()
    environment = {**os.environ, "RAY_TMPDIR": str(short), "http_proxy": "http://127.0.0.1:9"}
    environment.pop("RAY_AUTH_MODE", None)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _START, _JOIN],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            env=environment,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""  # no warning of Ray's
        said = json.loads(done.stdout)
        assert said == {"nice": os.nice(0), "listening": said["listening"], "open": False, "joined": "1\n"}
        assert {address.removeprefix("::ffff:") for address in said["listening"]} == {"127.0.0.1"}
        (folder,) = short.iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    finally:
        subprocess.run(["rm", "-rf", str(short)], check=True)


def test_haproxy_closes_idle_connections_and_its_socket_is_private(settings: dict[str, str], tmp_path: Path) -> None:
    assert settings["RAY_SERVE_HAPROXY_MAXCONN"] == "77"
    assert settings["RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S"] == "9"
    assert settings["RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S"] == "7"  # 1.5 s, whole seconds, and 5 for the reply
    folder = private_folder()
    assert folder.parent == tmp_path
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = [value for name, value in settings.items() if name.endswith(("_PATH", "_LOC", "_FILE", "_BASE"))]
    assert len(files) == 4
    assert all(Path(file).is_relative_to(folder) for file in files)


def test_calls_between_replicas_pass_by_a_proxy_of_the_environment(settings: dict[str, str]) -> None:
    environment = {**os.environ, **settings, "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    program = (
        "import asyncio, grpc\n"
        "async def main():\n"
        "    server = grpc.aio.server(); port = server.add_insecure_port('127.0.0.1:0'); await server.start()\n"
        "    channel = grpc.aio.insecure_channel(f'127.0.0.1:{port}')\n"
        "    await asyncio.wait_for(channel.channel_ready(), 20)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, env=environment
    )
    assert done.returncode == 0, done.stderr


def test_a_folder_of_another_account_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"silverray-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="belongs to another account; set RAY_TMPDIR"):
        private_folder()


def test_a_log_is_readable_by_its_account_only(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "updates.db")
    try:
        files = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        store.close()
    assert files["updates.db"] == 0o600
    assert set(files.values()) == {0o600}


@pytest.fixture
def started_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Working directories in which Ray was started."""
    folders: list[str] = []

    def init(*_: Any, **__: Any) -> None:
        folders.append(os.path.realpath(os.path.curdir))
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(ray, "init", init)
    return folders


@pytest.mark.parametrize("gone", [False, True])
def test_workers_import_nothing_from_the_working_directory(
    started_from: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    """A `numpy.py` there stood for numpy in every worker, and `serve` did not come up."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "numpy.py").write_text("raise SystemExit")
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    facts = here.stat()
    if gone:
        (here / "numpy.py").unlink()
        here.rmdir()
    connect_ray(None)
    assert started_from == ["/"]
    assert os.path.samestat(Path().stat(), facts)


@pytest.mark.parametrize("entry", ["", "."])
def test_workers_import_from_the_working_directory_where_this_process_does(
    started_from: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path, entry])
    connect_ray(None)
    assert started_from == [str(tmp_path)]


@pytest.mark.usefixtures("started_from")
def test_signals_are_ours_again_as_soon_as_ray_has_started() -> None:
    before = signal.getsignal(signal.SIGTERM)
    connect_ray(None)
    assert signal.getsignal(signal.SIGTERM) is before
