"""The newest version is what was published last, and publishing leaves a version or nothing."""

import errno
import json
import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from silverray.shard.api import SnapshotError
from silverray.shard.publish.builder import publish
from silverray.shard.schema.schema import Schema
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.snapshot.files import MANIFEST, SnapshotFiles, newest_version, seal, version_folder
from silverray.shard.snapshot.store import leftovers, new_snapshot

SCHEMA = Schema.parse("{id: id, vector: {dimension: 4, metric: ip}, fields: {year: {type: int}}}", "schema")


def make(store: Path, version: str) -> Catalog:
    items = pa.table({"id": [0, 1, 2], "year": [2000, 2001, 2002]})
    return publish(items, SCHEMA, store, vectors=np.eye(3, 4, dtype=np.float32), version=version, partitions=2)


def change(version: Path, **entries: object) -> None:
    """Change entries of a manifest, and seal it again; None removes one."""
    manifest = json.loads((version / MANIFEST).read_bytes()) | entries
    seal({name: value for name, value in manifest.items() if value is not None or name == "model"}, version / MANIFEST)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    for version in ("b", "a", "c"):
        make(tmp_path / "store", version)
    return tmp_path / "store"


def numbers(store: Path) -> dict[str, object]:
    return {path.name: SnapshotFiles.open(path).manifest.get("number") for path in store.iterdir()}


def test_versions_are_numbered_in_the_order_of_publishing(store: Path) -> None:
    assert numbers(store) == {"b": 1, "a": 2, "c": 3}
    assert newest_version(store) == "c" and version_folder(store) == store / "c"
    shutil.rmtree(store / "a")
    make(store, "d")
    assert numbers(store) == {"b": 1, "c": 3, "d": 4}


def test_copying_and_touching_change_nothing(store: Path, tmp_path: Path) -> None:
    os.utime(store / "a" / MANIFEST, (2**31, 2**31))
    assert newest_version(store) == "c"
    for version in ("c", "b", "a"):
        shutil.copytree(store / version, tmp_path / "copy" / version, copy_function=shutil.copy)
    assert newest_version(tmp_path / "copy") == "c"


def test_versions_of_earlier_releases_come_first_and_are_not_guessed_at(store: Path) -> None:
    for version in ("a", "c"):
        change(store / version, number=None)
    assert newest_version(store) == "b"
    shutil.rmtree(store / "b")
    with pytest.raises(
        SnapshotError, match=r"cannot tell which of a, c was published last \(earlier releases.*name the"
    ):
        newest_version(store)
    shutil.rmtree(store / "a")
    assert newest_version(store) == "c"
    assert Catalog.open(store / "c").items == 3
    make(store, "d")
    assert newest_version(store) == "d" and numbers(store) == {"c": None, "d": 1}


def test_merged_stores_whose_newest_have_one_number_are_not_guessed_at(store: Path, tmp_path: Path) -> None:
    change(store / "a", number=3)
    with pytest.raises(SnapshotError, match=r"which of a, c was published last \(all have the number 3\)"):
        newest_version(store)
    make(store, "d")
    assert newest_version(store) == "d"


def test_a_link_to_a_version_is_not_another_version(store: Path) -> None:
    (store / "current").symlink_to("c")
    assert newest_version(store) == "c"
    (store / "b2").symlink_to(store / "b")
    assert newest_version(store) == "c"


def test_concurrent_publishers_take_different_numbers(tmp_path: Path) -> None:
    source = make(tmp_path / "one", "a").path
    ready = threading.Barrier(8)

    def copy(name: str) -> None:
        ready.wait()
        with new_snapshot(tmp_path / "store", name) as draft:
            shutil.copytree(source, draft, dirs_exist_ok=True)

    threads = [threading.Thread(target=copy, args=(f"v{number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(str, numbers(tmp_path / "store").values())) == [str(number) for number in range(1, 9)]


def test_a_damaged_manifest_is_named_where_the_newest_is_asked_for(store: Path) -> None:
    (store / "a" / MANIFEST).write_text("{")
    with pytest.raises(SnapshotError, match=r"a/manifest\.json: cannot be read"):
        newest_version(store)
    (store / "a" / MANIFEST).unlink()
    for number in (-1, True, 1.5, "3", 10**30):
        change(store / "b", number=number)
        with pytest.raises(SnapshotError, match=r"b/manifest\.json: number: expected"):
            newest_version(store)


@pytest.mark.parametrize("name", ["../x", "/x", ".x", "a/b", "a\nb", "a\x1b[31m", "", "x" * 201, "a\u202eb"])
def test_a_version_has_a_plain_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^version: expected a plain name") as failure:
        make(tmp_path / "store", name)
    assert str(failure.value).isprintable() and not (tmp_path / "store").exists()
    with pytest.raises(SnapshotError, match=r"^version: expected a plain name"):
        version_folder(tmp_path, name)


def test_what_dead_publishers_left_is_removed_and_nothing_else(store: Path) -> None:
    dead = store / ".d-0123abcd"
    (dead / "partitions/00000").mkdir(parents=True)
    (store / ".git-0123abcd/objects").mkdir(parents=True)
    (store / ".notes-0123abcd").write_text("mine")
    with new_snapshot(store, "d") as draft:
        assert not dead.exists() and leftovers(store) == []
        shutil.copytree(store / "a", draft, dirs_exist_ok=True)
        with new_snapshot(store, "e") as other:
            assert draft.is_dir()
            shutil.copytree(store / "a", other, dirs_exist_ok=True)
    assert sorted(path.name for path in store.iterdir()) == [".git-0123abcd", ".notes-0123abcd", *"abcde"]
    assert newest_version(store) == "d"


def test_the_permissions_of_a_version_are_those_that_the_user_has_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        path = make(tmp_path / "store", "a").path
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(file.stat().st_mode) for file in [path, *path.rglob("*")]}
    assert modes <= {0o700, 0o600}


def test_a_full_disk_is_one_error_that_names_the_store(small_disk: Callable[[int], Path]) -> None:
    n, disk = 2_000, small_disk(300)
    vectors = np.random.default_rng(0).normal(size=(n, 64)).astype(np.float32)
    schema = Schema.parse("{id: id, vector: {dimension: 64, metric: ip}, fields: {}}")
    with pytest.raises(OSError, match=r"disk/store: version v cannot be written: .*No space left on device") as failure:
        publish(pa.table({"id": range(n)}), schema, disk / "store", vectors=vectors, version="v")
    assert "\n" not in str(failure.value)
    assert list((disk / "store").iterdir()) == []


def test_a_read_only_disk_is_one_error_that_names_the_store(small_disk: Callable[[int], Path]) -> None:
    disk = small_disk(4_000)
    make(disk / "store", "a")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(OSError, match=r"disk/store: version b cannot be written: Read-only file system$"):
        make(disk / "store", "b")
    assert newest_version(disk / "store") == "a"


def test_an_error_of_the_file_system_keeps_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("silverray.shard.snapshot.store.seal", full)
    with pytest.raises(OSError, match=r"version a cannot be written: No space left on device$") as failure:
        make(tmp_path / "store", "a")
    assert failure.value.errno == errno.ENOSPC
