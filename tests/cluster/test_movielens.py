import hashlib
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from silverray.cluster.demo import movielens
from silverray.cluster.demo.movielens import Film, MovieLensError, Rater

FILES = {
    "ml-100k.item": (
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        "7\tMisérables, Les\t1995\tDrama Musical\n"
        "2\tunkonwn\tunkonwn\tunknown\n"
        "5\tLand Before Time III (1995)\tV\tAnimation Children's\n"
    ),
    "ml-100k.user": (
        "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        "10\t53\tF\tother\t94043\n"
        "9\t24\tM\ttechnician\tT8H1N\n"
    ),
    "ml-100k.inter": (
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n9\t7\t3\t300\n10\t2\t5\t100\n9\t5\t4.0\t200\n"
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_load(folder: Path) -> None:
    data = movielens.load(folder)
    assert data.films == (
        Film(2, "unkonwn", None, ()),
        Film(5, "Land Before Time III (1995)", None, ("Animation", "Children's")),
        Film(7, "Misérables, Les", 1995, ("Drama", "Musical")),
    )
    assert data.raters == (Rater(9, 24, "M", "technician"), Rater(10, 53, "F", "other"))
    assert data.times.tolist() == [100, 200, 300]
    assert data.rater_ids.tolist() == [10, 9, 9]
    assert data.film_ids.tolist() == [2, 5, 7]
    assert data.ratings.tolist() == [5, 4, 3]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ml-100k.item", "header\n1\tno year\n", r"ml-100k\.item: line 2: expected 4 cells, got 2"),
        ("ml-100k.inter", "header\n1\t2\t3\tnever\n", r"ml-100k\.inter: line 2: .*never"),
        ("ml-100k.user", "header\nx\t24\tM\twriter\t1\n", r"ml-100k\.user: line 2: .*x"),
    ],
)
def test_bad_lines_are_named(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text)
    with pytest.raises(MovieLensError, match=message):
        movielens.load(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "ml-100k.user").unlink()
    with pytest.raises(MovieLensError, match=r"ml-100k\.user"):
        movielens.load(folder)


def stub_pip(monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> list[list[str]]:
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        wheel = Path(command[command.index("--dest") + 1]) / "some-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, text in files.items():
                archive.writestr(f"recbole/dataset_example/ml-100k/{name}", text)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    sums = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in FILES.items()}
    monkeypatch.setattr(movielens, "_SHA256", sums)
    return commands


def test_fetch_downloads_once_and_mends_a_damaged_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = stub_pip(monkeypatch, FILES)
    cache = tmp_path / "cache"
    assert movielens.fetch(cache) == cache
    assert movielens.fetch(cache) == cache
    assert len(commands) == 1
    assert {path.name for path in cache.iterdir()} == set(FILES)
    assert len(movielens.load(cache).films) == 3
    (cache / "ml-100k.user").write_text("damaged")
    movielens.fetch(cache)
    assert len(commands) == 2
    assert len(movielens.load(cache).raters) == 2


def test_fetch_refuses_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub_pip(monkeypatch, {**FILES, "ml-100k.user": "something else"})
    with pytest.raises(MovieLensError, match=r"ml-100k\.user .*SHA-256 differs"):
        movielens.fetch(tmp_path)


def test_fetch_says_why_it_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: no network\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(MovieLensError, match=r"carries MovieLens 100K, failed: ERROR: no network"):
        movielens.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []
