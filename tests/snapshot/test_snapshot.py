"""A snapshot is whole and unaltered, or it is refused by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from silverray.shard.api import SnapshotError
from silverray.shard.engine.engine import Engine
from silverray.shard.local import LocalSearcher
from silverray.shard.publish.builder import publish
from silverray.shard.schema.schema import Schema
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.snapshot.files import MANIFEST, SnapshotFiles, newest_version

SCHEMA = Schema.parse("{id: id, vector: {dimension: 4, metric: cosine}, fields: {year: {type: int}}}", "schema")


def table(n: int) -> pa.Table:
    return pa.table({"id": list(range(n)), "year": [2000] * n})


@pytest.fixture
def copy(catalog: Catalog, tmp_path: Path) -> Path:
    return Path(shutil.copytree(catalog.path, tmp_path / "v1"))


def test_what_was_published_is_described(catalog: Catalog) -> None:
    assert (catalog.version, catalog.items, catalog.partitions, catalog.clusters) == ("v1", 3_000, 8, 64)
    assert sum(catalog.partition_items) == 3_000
    assert (catalog.id_type, catalog.tasks, catalog.seq) == ("int", ("default",), 0)
    assert len(list(SnapshotFiles.open(catalog.path).verify())) == 8 * 4 + 2


def test_every_file_with_one_flipped_byte_is_refused_by_name(copy: Path) -> None:
    names = [path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()]
    assert len(names) == 8 * 4 + 3
    for name in names:
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        original = (copy / name).read_bytes()
        (copy / name).write_bytes(content)
        with pytest.raises(SnapshotError, match=name.replace(".", r"\.")):
            list(SnapshotFiles.open(copy).verify())
        with pytest.raises(SnapshotError, match=name.replace(".", r"\.")):
            Engine.open(copy)
        (copy / name).write_bytes(original)
    assert Engine.open(copy).items == 3_000


def test_a_missing_partition_and_a_short_file_are_refused_by_name(copy: Path) -> None:
    file = copy / "partitions/00003/items.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    with pytest.raises(SnapshotError, match=r"00003/items\.safetensors: has"):
        Catalog.open(copy)
    shutil.rmtree(file.parent)
    with pytest.raises(SnapshotError, match=r"partitions/00003/.*missing"):
        Catalog.open(copy)


def test_a_manifest_of_another_format_or_none_is_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="not a published snapshot"):
        Catalog.open(tmp_path / "nothing")
    (copy / MANIFEST).write_text(json.dumps({"format": 99}))
    with pytest.raises(SnapshotError, match=r"manifest\.json: altered"):
        Catalog.open(copy)
    (copy / MANIFEST).write_text("[1, 2")
    with pytest.raises(SnapshotError, match=r"manifest\.json: cannot be read"):
        Catalog.open(copy)


def test_a_failed_publish_leaves_nothing_and_a_version_is_never_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("silverray.shard.publish.builder.write_manifest", full_disk)
        with pytest.raises(OSError, match="No space left"):
            publish(table(3), SCHEMA, tmp_path, vectors=np.eye(3, 4, dtype=np.float32), version="a")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(SnapshotError, match="holds no published snapshot"):
        newest_version(tmp_path)
    publish(table(3), SCHEMA, tmp_path, vectors=np.eye(3, 4, dtype=np.float32), version="a")
    with pytest.raises(SnapshotError, match="exists already"):
        publish(table(3), SCHEMA, tmp_path, vectors=np.eye(3, 4, dtype=np.float32), version="a")
    assert newest_version(tmp_path) == "a"


def test_the_same_input_and_seed_give_the_same_bytes(publish_items: Callable[..., Catalog]) -> None:
    first, second = (SnapshotFiles.open(publish_items(500, seed=4).path).manifest for _ in range(2))
    assert first == second
    assert SnapshotFiles.open(publish_items(500, seed=5).path).manifest["files"] != first["files"]


def bad_vectors(change: Callable[[np.ndarray], None]) -> np.ndarray:
    vectors = np.eye(3, 4, dtype=np.float32)
    change(vectors)
    return vectors


@pytest.mark.parametrize(
    ("items", "vectors", "message"),
    [
        (pa.table({"year": [1]}), np.eye(1, 4, dtype=np.float32), "column 'id' is missing"),
        (pa.table({"id": [1]}), np.eye(1, 4, dtype=np.float32), "column 'year' is missing"),
        (table(3), None, "column 'vector' is missing"),
        (table(3), np.eye(3, 5, dtype=np.float32), r"vectors: expected \[3, 4\] float32, got \[3, 5\]"),
        (table(3), np.eye(2, 4, dtype=np.float32), r"vectors: expected \[3, 4\] float32, got \[2, 4\]"),
        (table(3), np.eye(3, 4), "float64"),
        (table(3), bad_vectors(lambda v: v.__setitem__((1, 2), np.nan)), "row 1: holds NaN"),
        (table(3), bad_vectors(lambda v: v.__setitem__(2, 0)), "row 2: a vector of zeros"),
        (table(3).set_column(0, "id", pa.array([1, 2, 1])), np.eye(3, 4, dtype=np.float32), "id 1 stands twice"),
        (table(3).set_column(0, "id", pa.array([1, -2, 3])), np.eye(3, 4, dtype=np.float32), "row 1: an id must be"),
        (table(3).set_column(0, "id", pa.array([1, None, 3])), np.eye(3, 4, dtype=np.float32), "row 1: an id cannot"),
        (table(3).set_column(0, "id", pa.array(["a", "", "b"])), np.eye(3, 4, dtype=np.float32), "row 1: an id must"),
        (table(3).set_column(0, "id", pa.array(["é" * 257] * 3)), np.eye(3, 4, dtype=np.float32), "got 514"),
        (table(3).set_column(0, "id", pa.array([1.5, 2, 3])), np.eye(3, 4, dtype=np.float32), "integers or strings"),
        (table(2).append_column("vector", pa.array([[1.0] * 4, [1.0]])), None, "row 1: has 1 numbers"),
        (table(2).append_column("vector", pa.array([1, 2])), None, "expected lists of numbers"),
    ],
)
def test_bad_input_is_refused_with_its_column_and_row(
    items: pa.Table, vectors: np.ndarray | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        publish(items, SCHEMA, tmp_path, vectors=vectors)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("n", "kind"), [(0, "int"), (1, "int"), (1, "string")])
def test_an_empty_catalog_and_one_item_are_served(n: int, kind: str, tmp_path: Path) -> None:
    ids = pa.array(
        list(range(n)) if kind == "int" else ["ünïcode 雪"] * n, pa.int64() if kind == "int" else pa.string()
    )
    items = pa.table({"id": ids, "year": pa.array([2000] * n, pa.int64())})
    made = publish(items, SCHEMA, tmp_path, vectors=np.full((n, 4), 0.5, np.float32), version="v", partitions=4)
    assert made.items == n
    found = LocalSearcher.open(made.path).search_batch(np.ones((2, 4), np.float32), [None, "year < 1990"], k=5)
    assert found.counts.tolist() == [n, 0]
    if n:
        assert found.ids[0, 0] == (0 if kind == "int" else "ünïcode 雪")
        assert found.scores[0, 0] == pytest.approx(1)


def test_a_vector_column_is_as_good_as_a_file(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    column = table(20).append_column("vector", pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4))
    one = publish(table(20), SCHEMA, tmp_path / "a", vectors=vectors, version="v")
    other = publish(column, SCHEMA, tmp_path / "b", version="v")
    assert SnapshotFiles.open(one.path).manifest["files"] == SnapshotFiles.open(other.path).manifest["files"]
