"""`silverray convert`, as one would call it."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from request_tables import FORMAT, request_table, write
from typer.testing import CliRunner

from silverray.cluster.cli import app
from silverray.shard.train.convert import to_impressions

FEATURES = """
tasks: [liked, watched]
user:
  seen: {type: history, ids: int, length: 3}
  age: {type: bucket, boundaries: [18, 30]}
  country: {type: category, vocabulary: [US, FR]}
  city: {type: hash, ids: string, buckets: 10}
"""


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    (tmp_path / "features.yaml").write_text(FEATURES)
    rows = write(tmp_path, to_impressions(request_table(40), FORMAT), name="impressions.parquet")
    return rows, tmp_path / "features.yaml", tmp_path / "requests.parquet"


def run(rows: Path, features: Path, out: Path, *options: str) -> tuple[int, str, str]:
    arguments = ["convert", str(rows), "--features", str(features), "--out", str(out), *options]
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    return done.exit_code, done.stdout, done.stderr


def test_converts(files: tuple[Path, Path, Path]) -> None:
    out = files[2]
    code, said, notes = run(*files)
    assert (code, said) == (0, f"converted {out}\n")
    assert "100 impressions became 40 requests" in notes
    assert pq.read_table(out).equals(request_table(40))


def test_prints_json(files: tuple[Path, Path, Path]) -> None:
    code, said, _ = run(*files, "--json", "--span", "1s")
    found = json.loads(said)
    assert code == 0
    assert (found["path"], found["impressions"], found["requests"]) == (str(files[2]), 100, 40)
    assert found["bytes"] == files[2].stat().st_size


def test_mistakes_are_one_clear_line(files: tuple[Path, Path, Path]) -> None:
    rows, features, out = files
    expected = f"error: {rows.parent}/none.parquet: no such file\n"
    code, _, said = run(rows.parent / "none.parquet", features, out)
    assert code == 2 and said.startswith(expected) and said.count("\n") == 1
    assert run(rows, features, out, "--span", "500ms") == (2, "", "error: span: expected whole seconds, got 0.5 s\n")
    features.write_text("tasks: [liked]\n")
    code, _, said = run(*files)
    assert code == 2 and said.startswith(f"error: {features}: user: ")
    features.write_text(FEATURES.replace("watched", "bought"))
    said = f"error: {rows}: column 'bought': expected float, there is no such column; it has request, "
    code, _, told = run(*files)
    assert code == 2 and told.startswith(said) and told.count("\n") == 1
    assert not out.exists()
