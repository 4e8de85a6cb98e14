"""`publish` takes whatever is unambiguous, and names the argument that it does not take."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from silverray.shard.api import SnapshotError
from silverray.shard.publish.builder import publish
from silverray.shard.schema.schema import Schema
from silverray.shard.snapshot.files import SnapshotFiles

TEXT = "{id: id, vector: {dimension: 4, metric: ip}, fields: {year: {type: int}}}"
DOCUMENT = {"id": "id", "vector": {"dimension": 4, "metric": "ip"}, "fields": {"year": {"type": "int"}}}
ROWS = {"id": [0, 1, 2], "year": [2000, 2001, 2002]}
VECTORS = np.eye(3, 4, dtype=np.float32)


class Frame:
    """What gives itself as an Arrow stream, as frames of polars do."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return pa.table(ROWS).__arrow_c_stream__(requested_schema)


def files(out: Path, /, **arguments: Any) -> Any:
    given: dict[str, Any] = {"items": pa.table(ROWS), "schema": Schema.parse(TEXT), "out": out, "vectors": VECTORS}
    made = publish(**(given | arguments), version="v", partitions=2)
    return SnapshotFiles.open(made.path).manifest["files"]


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return files(tmp_path_factory.mktemp("usual"))


@pytest.mark.parametrize(
    "arguments",
    [
        {"items": pd.DataFrame(ROWS)},
        {"items": pa.RecordBatch.from_pydict(ROWS)},
        {"items": ROWS},
        {"items": Frame()},
        {"schema": DOCUMENT},
        {"vectors": VECTORS.tolist()},
        {"vectors": tuple(map(tuple, VECTORS.astype(int).tolist()))},
        {"vectors": torch.from_numpy(VECTORS)},
        {"vectors": torch.from_numpy(VECTORS).requires_grad_()},
    ],
    ids=lambda arguments: "-".join(f"{name}-{type(value).__name__}" for name, value in arguments.items()),
)
def test_what_is_unambiguous_is_taken(arguments: dict[str, Any], usual: Any, tmp_path: Path) -> None:
    assert files(tmp_path, **arguments) == usual


def test_paths_may_be_strings(usual: Any, tmp_path: Path) -> None:
    (tmp_path / "schema.yaml").write_text(TEXT)
    assert files(tmp_path / "a", schema=str(tmp_path / "schema.yaml")) == usual
    assert files(tmp_path / "b", schema=tmp_path / "schema.yaml", out=str(tmp_path / "b")) == usual


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"items": [1, 2]}, "^items: expected a table, a data frame or a mapping of columns, got list"),
        ({"items": "items.parquet"}, "^items: .*got str"),
        ({"items": None}, "^items: .*got NoneType"),
        ({"items": {"id": [1, "a"], "year": [1, 2]}}, "^items: not readable as a table"),
        ({"items": {"id": [1, 2], "year": [1]}}, "^items: not readable as a table"),
        ({"schema": None}, "^schema: expected a path, got NoneType"),
        ({"schema": TEXT + "\n"}, "^schema: expected the path of a file, got text"),
        ({"schema": {"id": "id"}}, "^schema: vector: missing key"),
        ({"schema": "nothing.yaml"}, r"nothing\.yaml"),
        ({"out": None}, "^out: expected a path, got NoneType"),
        ({"out": 3}, "^out: expected a path, got int"),
        ({"vectors": VECTORS.astype(np.float64)}, "float64"),
        ({"vectors": torch.ones(3, 4, dtype=torch.bfloat16)}, r"^vectors: expected float32, got \[3, 4\] bfloat16"),
        ({"vectors": [[1.0] * 4, [1.0]]}, "^vectors: "),
        ({"vectors": [["a"] * 4] * 3}, "^vectors: expected lists of numbers"),
        ({"vectors": [[1e39] * 4] * 3}, "^vectors, row 0"),
        ({"vectors": "v.npy"}, "^vectors: expected an array of float32, got str"),
        ({"vectors": np.ma.masked_less(VECTORS, 1)}, r"^vectors: expected numbers, got an array that masks some$"),
        ({"model": 3}, "^model: expected a path, got int"),
        ({"seq": -1}, "^seq: expected a whole number"),
        ({"items_seq": 1.5}, "^items_seq: expected a whole number"),
        ({"seed": "0"}, "^seed: expected a whole number"),
        ({"clusters": 2.0}, "^clusters: expected a whole number"),
        ({"cache": ["fp32"]}, "^cache: expected one of fp32, bf16"),
        ({"progress": 5}, "^progress: expected a function or None, got int$"),
        ({"schema": {"id": "a\ud83c", "vector": {"dimension": 4, "metric": "ip"}, "fields": {}}}, "^schema: id: exp"),
        ({"space": "a\x1b[31m"}, "^space: expected printable text"),
    ],
    ids=str,
)
def test_the_rest_is_refused_by_name(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as failure:
        files(tmp_path / "store", **arguments)
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("partitions", [0, 65_537, True, 8.0, "8"])
def test_partitions_are_a_whole_number(partitions: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^partitions: expected a whole number from 1 to 65536, got"):
        publish(pa.table(ROWS), Schema.parse(TEXT), tmp_path, vectors=VECTORS, partitions=partitions)


def test_a_name_that_stands_twice_is_refused_where_it_is_needed(tmp_path: Path) -> None:
    arrays = [pa.array(ROWS["id"]), pa.array(ROWS["year"]), pa.array(ROWS["year"])]
    with pytest.raises(ValueError, match=r"^column 'year' stands 2 times"):
        files(tmp_path / "a", items=pa.Table.from_arrays(arrays, ["id", "year", "year"]))
    arrays.append(arrays[0])
    assert files(tmp_path / "b", items=pa.Table.from_arrays(arrays, ["id", "year", "x", "x"]))


def check_models() -> list[tuple[Callable[[Path], object], str]]:
    return [
        (lambda file: None, "cannot be read"),
        (lambda file: file.write_text("[" * 100_000), "nested too deeply"),
        (lambda file: file.write_text("[1]"), "expected an object"),
        (lambda file: file.write_text('{"dimension": NaN}'), "got NaN"),
        (lambda file: file.write_text('{"dimension": 4}'), "tasks: expected a list of names"),
        (lambda file: file.write_text('{"dimension": 4, "tasks": ["a", "a"]}'), "tasks: expected a list of names"),
    ]


@pytest.mark.parametrize(("write", "message"), check_models())
def test_a_model_is_described_properly(write: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    write(tmp_path / "module_info.json")
    with pytest.raises(ValueError, match=f"^model: .*module_info.json.*{message}"):
        files(tmp_path / "store", model=tmp_path)


def test_a_version_that_exists_is_never_changed(tmp_path: Path) -> None:
    files(tmp_path)
    (tmp_path / "w").symlink_to("nowhere")
    for version in ("v", "w"):
        with pytest.raises(SnapshotError, match="exists already"):
            publish(pa.table(ROWS), Schema.parse(TEXT), tmp_path, vectors=VECTORS, version=version)


def test_no_version_is_called_like_the_file_that_names_the_log(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^version: expected another name than 'log.json'"):
        publish(pa.table(ROWS), Schema.parse(TEXT), tmp_path, vectors=VECTORS, version="log.json")
