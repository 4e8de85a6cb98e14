"""What `publish` is given as files is read, or refused in one line that names the file."""

import errno
import os
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import torch

from silverray.cluster.commands.item_files import read_items, read_vectors
from silverray.shard.schema.arrow import canonical
from silverray.shard.schema.schema import Schema

SCHEMA = Schema.parse(
    "{id: id, vector: {dimension: 4, metric: ip}, fields: {year: {type: int}, c: {type: category, nullable: true}}}"
)
MAY = date(2001, 5, 1)
DAY, FAR = pa.array([MAY]), pa.array([date(9000, 1, 1)])
TEXTS = pa.dictionary(pa.int8(), pa.string())
ROWS = {"id": [0, 1, 2], "year": [2001] * 3, "c": ["a", None, "b"], "vector": [[1.0, 2, 3, 4]] * 3}


def write(file: Path, **columns: object) -> Path:
    """A file of `ROWS`, with other columns; None leaves one out."""
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({name: its for name, its in {**ROWS, **columns}.items() if its is not None}), file)
    return file


def read(path: Path, vectors: bool = True) -> pa.Table:
    return read_items(path, SCHEMA, with_vectors=vectors)


def refused(path: Path) -> str:
    with pytest.raises(ValueError) as failure:
        read(path)
    assert "\n" not in str(failure.value) and str(failure.value).startswith(str(path))
    return str(failure.value)


def test_a_partitioned_folder_is_read_whether_its_files_hold_the_column_or_not(tmp_path: Path) -> None:
    write(tmp_path / "lake/year=2001/p.parquet")
    assert read(tmp_path / "lake").to_pydict() == ROWS
    write(tmp_path / "lake/year=2002/p.parquet", year=None)
    assert read(tmp_path / "lake")["year"].to_pylist() == [2001] * 3 + [2002] * 3
    write(tmp_path / "lake/year=2001/p.parquet", year=pa.array([2001] * 3, pa.int16()))
    assert read(tmp_path / "lake")["year"].to_pylist() == [2001] * 3 + [2002] * 3


def test_a_partition_is_read_as_its_field_has_it(tmp_path: Path) -> None:
    write(tmp_path / "texts/c=2001/p.parquet", c=None)
    write(tmp_path / "texts/c=a%2Fb/p.parquet", c=["a/b"] * 3)
    write(tmp_path / "texts/c=__HIVE_DEFAULT_PARTITION__/p.parquet", c=None)
    assert read(tmp_path / "texts")["c"].to_pylist() == ["2001"] * 3 + [None] * 3 + ["a/b"] * 3
    file = write(tmp_path / "words/year=old/p.parquet", year=None)
    with pytest.raises(ValueError, match=rf"^{file}: its folder says 'year=old', which is no int64$"):
        read(tmp_path / "words")


def test_a_partition_that_its_file_contradicts_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "lake/year=2001/p.parquet", year=[2001, 2001, 1999])
    with pytest.raises(ValueError, match=rf"^{file}: column 'year', row 2: holds 1999, but its folder says 2001$"):
        read(tmp_path / "lake")


def test_only_the_columns_of_the_schema_are_read(tmp_path: Path) -> None:
    arrays = [pa.array(ROWS[name]) for name in ("id", "year", "c", "vector")]
    twice = pa.Table.from_arrays([*arrays, arrays[0], arrays[1]], ["id", "year", "c", "vector", "x", "x"])
    pq.write_table(twice, tmp_path / "unneeded.parquet")
    assert read(tmp_path / "unneeded.parquet").column_names == ["id", "year", "c", "vector"]
    assert read(tmp_path / "unneeded.parquet", vectors=False).column_names == ["id", "year", "c"]
    pq.write_table(twice.rename_columns(["id", "year", "c", "vector", "c", "x"]), tmp_path / "needed.parquet")
    assert "column 'c' stands 2 times" in refused(tmp_path / "needed.parquet")
    write(tmp_path / "dots.parquet", **{"vector.x": [1, 2, 3]})
    assert read(tmp_path / "dots.parquet").to_pydict() == ROWS
    told = "column 'c': expected string, there is no such column; it has id, year, vector"
    assert refused(write(tmp_path / "missing.parquet", c=None)).endswith(told)


def test_files_of_a_folder_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, ids in {"b": [3, 4, 5], "a": [0, 1, 2], "_tmp/c": [9, 9, 9], ".c": [8, 8, 8]}.items():
        write(tmp_path / f"folder/{name}.parquet", id=pa.array(ids, pa.int32() if name == "a" else pa.int64()))
    assert read(tmp_path / "folder")["id"].to_pylist() == [0, 1, 2, 3, 4, 5]
    file = write(tmp_path / "folder/z.parquet", id=["x", "y", "z"])
    with pytest.raises(ValueError, match=rf"^{file}: column 'id': expected int64 as in .*/a\.parquet, got string$"):
        read(tmp_path / "folder")
    file.write_text("text")
    with pytest.raises(ValueError, match=rf"^{file}: not a readable Parquet file"):
        read(tmp_path / "folder")


def test_no_rows_and_no_row_groups_are_an_empty_table(tmp_path: Path) -> None:
    kind = pa.table(ROWS).schema
    pq.write_table(kind.empty_table(), tmp_path / "rows.parquet")
    pq.ParquetWriter(tmp_path / "groups.parquet", kind).close()
    assert read(tmp_path / "rows.parquet").num_rows == read(tmp_path / "groups.parquet").num_rows == 0


@pytest.mark.parametrize("content", [b"", b"x", b"id,year\n1,2\n" * 9, b"PAR1" + b"\xff" * 40 + b"PAR1"])
def test_what_is_no_parquet_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(content)
    assert "not a readable Parquet file" in refused(tmp_path / "x.parquet")


def test_a_damaged_file_and_one_of_another_format_are_named(tmp_path: Path) -> None:
    whole = write(tmp_path / "x.parquet").read_bytes()
    (tmp_path / "short.parquet").write_bytes(whole[:-50])
    (tmp_path / "bent.parquet").write_bytes(whole[:30] + b"\xff" * 300 + whole[330:])
    pyarrow.feather.write_feather(pa.table(ROWS), str(tmp_path / "feather.parquet"))
    for name in ("short", "feather"):
        assert "not a readable Parquet file" in refused(tmp_path / f"{name}.parquet")
    assert "cannot be read from row 0 on" in refused(tmp_path / "bent.parquet")


def test_a_path_of_no_files_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").mkdir()
    assert refused(tmp_path / "x.parquet").endswith("holds no Parquet file")
    assert refused(tmp_path / "nothing").endswith("no such file")
    assert "only local paths are read" in refused(Path("s3://bucket/items.parquet"))
    assert "only local paths are read" in refused(Path("hdfs://host:1/items"))
    with pytest.raises(ValueError, match=r"^gs:/b/v\.npy: only local paths are read"):
        read_vectors(Path("gs://b/v.npy"))


VECTORS = np.arange(24, dtype=np.float32).reshape(6, 4)


def test_vectors_are_mapped_in_either_order(tmp_path: Path) -> None:
    for name, array in {"c": VECTORS, "f": np.asfortranarray(VECTORS), "none": VECTORS[:0]}.items():
        np.save(tmp_path / f"{name}.npy", array)
        read = read_vectors(tmp_path / f"{name}.npy")
        assert read.dtype == np.float32 and np.array_equal(read, array)


def npy(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def write_changed(file: Path) -> None:
        with file.open("wb") as stream:
            np.save(stream, VECTORS)
        file.write_bytes(change(file.read_bytes()))

    return write_changed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda file: np.savez(file.open("wb"), VECTORS), r"an archive \(\.npz, or a file of PyTorch\)"),
        (lambda file: torch.save(torch.ones(6, 4), file), r"an archive \(\.npz, or a file of PyTorch\)"),
        (lambda file: np.save(file.open("wb"), np.array([{}], object)), "objects"),
        (lambda file: file.mkdir(), "expected a file"),
        (lambda file: None, "no such file"),
        (lambda file: file.write_bytes(b""), "expected one array"),
        (lambda file: file.write_text("1 2 3"), "expected one array"),
        (npy(lambda content: content[:-9]), "greater than file size"),
        (npy(lambda content: content[:60]), "EOF"),
        (npy(lambda content: content.replace(b"(6, 4)", b"(-6,4)")), "negative"),
        (npy(lambda content: content.replace(b"{'descr'", b"(((((((((")), "EOF"),
    ],
)
def test_what_is_no_array_is_named(make: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    make(tmp_path / "v")
    with pytest.raises(ValueError, match=rf"^{tmp_path}/v: not a readable NumPy file: .*{message}") as failure:
        read_vectors(tmp_path / "v")
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("field", "columns", "expected"),
    [
        ("category", [pa.array(["a"]), pa.array(["b"], TEXTS), pa.array(["c"], pa.string_view())], "abc"),
        ("tags", [pa.array([["a"]]), pa.array([["b"]], pa.list_(TEXTS))], [["a"], ["b"]]),
        ("bool", [pa.array([True]), pa.array([0], pa.int8())], [True, False]),
        ("int", [pa.array([2**62]), pa.array([7]).cast(pa.decimal128(20)).cast(pa.decimal128(5))], [2**62, 7]),
        ("date", [DAY, DAY.cast(pa.timestamp("us", "UTC")), DAY.cast(pa.timestamp("ns", "Asia/Tokyo"))], [MAY] * 3),
        ("date", [FAR.cast(pa.timestamp("us")), DAY.cast(pa.timestamp("ns"))], [date(9000, 1, 1), MAY]),
    ],
)
def test_files_may_have_a_column_in_any_type_of_its_field(
    field: str, columns: list[pa.Array], expected: Sequence[object], tmp_path: Path
) -> None:
    schema = Schema.parse(f"{{id: id, vector: {{dimension: 4, metric: ip}}, fields: {{x: {{type: {field}}}}}}}")
    for number, column in enumerate(columns):
        write(tmp_path / f"{number}.parquet", id=[number], x=column, vector=None, year=None, c=None)
    table = read_items(tmp_path, schema, with_vectors=False)
    assert canonical(table, schema)["x"].to_pylist() == list(expected)


def test_ids_and_vectors_of_several_types_are_read_and_others_are_named(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet", vector=pa.array(ROWS["vector"], pa.list_(pa.float32(), 4)))
    write(
        tmp_path / "1.parquet",
        id=pa.array([3, 4, 5], pa.uint8()),
        vector=pa.array(ROWS["vector"], pa.list_view(pa.float64())),
    )
    assert read(tmp_path)["id"].to_pylist() == [0, 1, 2, 3, 4, 5]
    file = write(tmp_path / "2.parquet", vector=[[True] * 4] * 3)
    assert refused(tmp_path).startswith(f"{file}: column 'vector': expected lists of numbers, got list<")
    file = write(tmp_path / "2.parquet", year=pa.array([1, 2, 2**63], pa.uint64()))
    assert refused(tmp_path) == f"{file}: column 'year', row 2: expected an integer below 2^63, got {2**63}"


def test_a_wrong_value_is_named_with_its_file_and_row(tmp_path: Path) -> None:
    write(tmp_path / "0.parquet")
    file = write(tmp_path / "1.parquet", year=pa.array([1, 2, 2**63], pa.uint64()))
    assert refused(tmp_path).startswith(f"{file}: column 'year', row 2: ")
    write(tmp_path / "0.parquet", year=pa.array([1, 2, 3], pa.uint64()))
    assert refused(tmp_path).startswith(f"{file}: column 'year', row 2: ")
    write(tmp_path / "1.parquet", year=["x"] * 3)
    assert refused(tmp_path) == f"{file}: column 'year': expected int64, got string"


def test_links_to_folders_are_followed_and_those_to_nothing_are_named(tmp_path: Path) -> None:
    write(tmp_path / "elsewhere/p.parquet", id=[3, 4, 5])
    write(tmp_path / "lake/p.parquet")
    (tmp_path / "lake/more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "lake")
    assert read(tmp_path / "lake")["id"].to_pylist() == [3, 4, 5, 0, 1, 2]
    lost = tmp_path / "lake/lost.parquet"
    lost.symlink_to(tmp_path / "nothing.parquet")
    assert refused(tmp_path / "lake") == f"{lost}: no such file"


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "lake/p.parquet")
    closed = write(tmp_path / "lake/closed/p.parquet").parent
    listdir = os.listdir

    def refuse(folder: Path) -> list[str]:
        if Path(folder) == closed:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return listdir(folder)

    monkeypatch.setattr(os, "listdir", refuse)
    monkeypatch.setattr(os, "scandir", refuse)
    assert refused(tmp_path / "lake") == f"{closed}: cannot be read: Permission denied"


@pytest.mark.parametrize("mark", ["_delta_log", ".hoodie"])
def test_a_table_that_keeps_deleted_rows_is_refused(mark: str, tmp_path: Path) -> None:
    write(tmp_path / "p.parquet")
    (tmp_path / mark).mkdir()
    assert refused(tmp_path).startswith(f"{tmp_path}: a table of ")


@pytest.mark.parametrize("mark", ["_delta_log/0.json", ".hoodie/hoodie.properties", "metadata/v1.metadata.json"])
@pytest.mark.parametrize("part", [".", "data", "data/year=2001", "data/year=2001/p.parquet"])
def test_a_part_of_such_a_table_is_refused_too(mark: str, part: str, tmp_path: Path) -> None:
    write(tmp_path / "films/data/year=2001/p.parquet")
    (tmp_path / "films" / mark).parent.mkdir()
    (tmp_path / "films" / mark).write_text("{}")
    assert f"{tmp_path}/films: a table of " in refused(tmp_path / "films" / part)


def test_a_folder_that_is_called_metadata_is_no_table(tmp_path: Path) -> None:
    write(tmp_path / "data/p.parquet")
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata/notes.json").write_text("{}")
    assert read(tmp_path / "data").num_rows == 3
