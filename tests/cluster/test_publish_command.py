"""`silverray publish` from outside: signals, and what it says of files and versions."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from processes import PATIENCE_S
from typer.testing import CliRunner

from silverray.cluster.cli import app
from silverray.shard.snapshot.files import newest_version

SCHEMA = "{id: id, vector: {dimension: 4, metric: ip}, fields: {year: {type: int}}}"
SLOW = """
import sys, time
from silverray.cluster.cli import app
from silverray.shard.publish import builder
def slow(*_):
    print("writing", flush=True)
    time.sleep(60)
builder.write_manifest = slow
app(sys.argv[1:])
"""


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    pq.write_table(pa.table({"id": range(6), "year": [2000] * 6}), tmp_path / "items.parquet")
    np.save(tmp_path / "vectors.npy", np.eye(6, 4, dtype=np.float32))
    (tmp_path / "schema.yaml").write_text(SCHEMA)
    options = {"schema": "schema.yaml", "vectors": "vectors.npy", "out": "store"}
    return [str(tmp_path / "items.parquet"), *(f"--{name}={tmp_path / file}" for name, file in options.items())]


def publish(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["publish", *arguments, "--partitions=2"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stderr


def started(files: list[str], version: str) -> subprocess.Popen[str]:
    """A publisher that has written all but the manifest."""
    command = [sys.executable, "-c", SLOW, "publish", *files, f"--version={version}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    return process


def test_sigterm_cleans_up_and_what_sigkill_leaves_is_removed_by_the_next(files: list[str], tmp_path: Path) -> None:
    store = tmp_path / "store"
    stopped = started(files, "stopped")
    stopped.send_signal(signal.SIGTERM)
    _, errors = stopped.communicate(timeout=PATIENCE_S)
    assert stopped.returncode != 0 and "Traceback" not in errors and list(store.iterdir()) == []
    killed, working = started(files, "killed"), started(files, "working")
    try:
        killed.kill()
        killed.communicate(timeout=PATIENCE_S)
        assert len(list(store.iterdir())) == 2
        assert publish(*files, "--version=v")[0] == 0
        names = sorted(path.name for path in store.iterdir())
        assert len(names) == 2 and names[0].startswith(".working-") and names[1] == "v"
    finally:
        working.kill()
        working.communicate(timeout=PATIENCE_S)


def test_the_newest_is_what_was_published_last(files: list[str], tmp_path: Path) -> None:
    for version in ("a-first", "b-second"):
        assert publish(*files, f"--version={version}")[0] == 0
    os.utime(tmp_path / "store/a-first/manifest.json", (time.time() + 99,) * 2)
    assert newest_version(tmp_path / "store") == "b-second"


@pytest.mark.parametrize("version", ["../x", ".x", "a\x1b]0;x\x07", ""])
def test_a_version_is_a_plain_name(version: str, files: list[str]) -> None:
    code, error = publish(*files, f"--version={version}")
    assert code == 2 and error.startswith("error: version: expected a plain name") and error.count("\n") == 1
    assert "\x1b" not in error


def test_what_cannot_be_read_is_one_line(files: list[str], tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", np.eye(6, 4, dtype=np.float32))
    code, error = publish(*files, f"--vectors={tmp_path / 'v.npz'}")
    assert code == 2 and error.startswith(f"error: {tmp_path}/v.npz: not a readable NumPy file: an archive")
    code, error = publish("s3://bucket/items.parquet", *files[1:])
    assert code == 2 and error.startswith("error: s3:/bucket/items.parquet: only local paths are read")
