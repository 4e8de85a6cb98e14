"""Request tables and the loader: values, order, resumption, memory, and damaged files."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from request_tables import FORMAT, items, request_table, with_column, write

from silverray.shard.parquet.rows import Rows, TableError
from silverray.shard.schema.user_features import HashFeature
from silverray.shard.train import requests
from silverray.shard.train.batch import Batch
from silverray.shard.train.loader import LoaderConfig, RequestLoader
from silverray.shard.train.requests import RequestTable


def loader(paths: Path | Sequence[Path], **config: Any) -> RequestLoader:
    return RequestLoader(RequestTable.open(paths, FORMAT), items(), LoaderConfig(**config))


def lists(features: Any, name: str) -> list[list[int]]:
    column = features[name]
    return [part.tolist() for part in torch.split(column.values(), column.lengths().tolist())]


def numbers(batches: Iterable[Batch]) -> list[int]:
    return [time - 1_000 for batch in batches for time in batch.times.tolist()]


def same(one: Sequence[Batch], other: Sequence[Batch]) -> bool:
    def tensors(batch: Batch) -> list[torch.Tensor]:
        sides = [part for side in (batch.user, batch.items) for part in (side.values(), side.lengths())]
        return [*sides, batch.request, batch.labels, batch.times]

    return len(one) == len(other) and all(
        torch.equal(a, b)
        for left, right in zip(one, other, strict=True)
        for a, b in zip(tensors(left), tensors(right), strict=True)
    )


def test_a_batch_holds_what_the_table_says(tmp_path: Path) -> None:
    table = request_table(6).slice(2)
    seen = [[10, 77, 30, 40, 20], [], [99], [10, 10]]
    table = with_column(table, "seen", pa.array(seen, pa.list_(pa.int64())))
    (batch,) = loader(write(tmp_path, table), requests=10, shuffle_window=1).batches(0)
    assert batch.times.tolist() == [1_002, 1_003, 1_004, 1_005]
    assert batch.times.dtype == batch.request.dtype == batch.user.values().dtype == torch.int64
    # Unknown items are left out, and the latest three stay.
    assert lists(batch.user, "seen") == [[3, 4, 2], [], [], [1, 1]]
    assert lists(batch.user, "age") == [[1], [1], [1], [1]]
    assert lists(batch.user, "country") == [[0], [0], [1], [2]]
    city = FORMAT.user.categories["city"]
    assert isinstance(city, HashFeature)
    assert lists(batch.user, "city") == [[0], [city.code("Rome")], [city.code("Oslo")], [0]]
    shown = table.column("items").to_pylist()
    known = {10: 1, 20: 2, 30: 3, 40: 4, 99: 0}
    assert batch.request.tolist() == [place for place, own in enumerate(shown) for _ in own]
    assert lists(batch.items, "item") == [[known[item]] for own in shown for item in own]
    tags = {10: [2], 20: [], 30: [2, 1], 40: [1], 99: []}
    assert lists(batch.items, "genres") == [tags[item] for own in shown for item in own]
    labels = [[own, 1.0] for row in table.column("liked").to_pylist() for own in row]
    assert batch.labels.tolist() == labels
    assert batch.labels.dtype == torch.float32


def test_all_requests_once_in_each_epoch_and_near_their_places(tmp_path: Path) -> None:
    read = loader(write(tmp_path, request_table(500), row_group=70), requests=32, shuffle_window=50, seed=3)
    epochs = [numbers(list(read.batches(epoch))) for epoch in range(2)]
    for order in epochs:
        assert sorted(order) == list(range(500))
        assert np.abs(np.array(order) - np.arange(500)).max() < 50
    assert epochs[0] != epochs[1]
    sizes = [len(batch.times) for batch in read.batches(0)]
    assert sizes == [32] * 15 + [20]
    assert same(list(read.batches(1)), list(read.batches(1)))


@pytest.mark.parametrize("block", [7, 8_192])
@pytest.mark.parametrize("window", [1, 40, 1_000])
@pytest.mark.parametrize("config", [{"requests": 9}, {"impressions": 21}])
def test_any_position_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: dict[str, int], window: int, block: int
) -> None:
    monkeypatch.setattr(requests, "BLOCK", block)
    paths = [
        write(tmp_path, request_table(90), row_group=16, name="a.parquet"),
        write(tmp_path, request_table(30, first=90), row_group=30, name="b.parquet"),
    ]
    read = loader(paths, shuffle_window=window, **config)
    whole = list(read.batches(2))
    assert len(whole) > 10
    position = 0
    for taken in range(len(whole) + 1):
        assert same(list(read.batches(2, position)), whole[taken:])
        position += len(whole[taken].times) if taken < len(whole) else 0
    assert position == len(read.table) == 120


def test_batches_by_impressions_never_split_a_request(tmp_path: Path) -> None:
    read = loader(write(tmp_path, request_table(100)), impressions=3, shuffle_window=1)
    batches = list(read.batches(0))
    assert numbers(batches) == list(range(100))
    for batch in batches:
        assert len(batch.request) <= 3 or len(batch.times) == 1
    # Requests of 1, 2, 3 and 4 impressions: the first two fit together.
    assert [len(batch.request) for batch in batches[:4]] == [3, 3, 4, 3]


def test_blocks_do_not_change_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path, request_table(300), row_group=64)
    read = loader(file, requests=16, shuffle_window=20)
    whole = list(read.batches(0))
    monkeypatch.setattr(requests, "BLOCK", 5)
    assert same(list(read.batches(0)), whole)


def test_memory_holds_a_window_not_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "BLOCK", 32)
    read = loader(write(tmp_path, request_table(2_000), row_group=32), requests=8, shuffle_window=16)
    decoded = 0
    block_of = RequestTable.read

    def counted(self: RequestTable, *arguments: Any) -> Any:
        nonlocal decoded
        for block in block_of(self, *arguments):
            decoded += len(block.times)
            yield block

    monkeypatch.setattr(RequestTable, "read", counted)
    given = 0
    for batch in read.batches(0):
        given += len(batch.times)
        assert decoded - given < 32 + 16 + 8
    assert given == decoded == 2_000
    decoded = 0
    next(read.batches(0, 1_600))
    assert decoded <= 3 * 32


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "expected either requests or impressions"),
        ({"requests": 1, "impressions": 1}, "expected either requests or impressions"),
        ({"requests": 0}, "requests: expected 1 or more, got 0"),
        ({"impressions": -1}, "impressions: expected 1 or more, got -1"),
        ({"requests": 1, "shuffle_window": 0}, "shuffle_window: expected 1 or more"),
        ({"requests": 1, "seed": -1}, "seed: expected 0 or more"),
    ],
)
def test_bad_settings(config: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LoaderConfig(**config)


def test_bad_positions(tmp_path: Path) -> None:
    read = loader(write(tmp_path, request_table(10)), requests=4)
    for position in (-1, 11):
        with pytest.raises(ValueError, match="position: expected 0 to 10, the number of requests, got"):
            next(read.batches(0, position))
    with pytest.raises(ValueError, match="epoch: expected 0 or more"):
        next(read.batches(-1))


def test_an_empty_table_has_no_batches(tmp_path: Path) -> None:
    assert list(loader(write(tmp_path, request_table(0)), requests=4).batches(0)) == []


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("time", ["x"], "column 'time': expected int64 or timestamp.*, got string"),
        ("items", [1.5], "column 'items': expected list<.*int64>, got double"),
        ("liked", [["a"]], "column 'liked': expected list<.*float>, got list<"),
        ("age", ["old"], "column 'age': expected double, got string"),
        ("country", [3], "column 'country': expected string, got int64"),
        ("seen", [["a"]], "column 'seen': expected list<.*int64>, got list<"),
    ],
)
def test_wrong_types_are_refused_when_opened(tmp_path: Path, name: str, values: list[Any], message: str) -> None:
    table = with_column(request_table(1), name, values)
    with pytest.raises(TableError, match=r"requests\.parquet: " + message):
        RequestTable.open(write(tmp_path, table), FORMAT)


@pytest.mark.parametrize("name", ["request", "time", "seen", "city", "items", "watched"])
def test_missing_columns_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TableError, match=rf"column '{name}': expected .*, there is no such column"):
        RequestTable.open(write(tmp_path, request_table(3).drop_columns([name])), FORMAT)


ROWS = 40
BAD = 33


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("time", None, "expected a value, got null"),
        ("time", 5, "expected ascending times, got 5 after 1032"),
        ("time", 1_600_000_000_000, "expected seconds since 1970, of ten digits at most, got 1600000000000; cast "),
        ("items", None, "expected a value, got null"),
        ("items", [], "expected at least one item, got none"),
        ("items", [10, None], "expected a list of values, got null in it"),
        ("seen", None, "expected a value, got null"),
        ("seen", [10, None], "expected a list of values, got null in it"),
        ("liked", [1.0], "expected 2 labels, as many as 'items' has, got 1"),
        ("liked", [1.0, float("nan")], "expected finite labels, got nan"),
        ("liked", [1.0, None], "expected a list of values, got null in it"),
        ("age", float("inf"), "expected a finite number, got inf"),
    ],
)
def test_bad_values_are_named_by_row(tmp_path: Path, name: str, value: Any, message: str) -> None:
    table = request_table(ROWS)
    # A schema that says "not null" cannot hold what is tested here.
    table = pa.table(table.columns, names=table.column_names)
    values = table.column(name).to_pylist()
    values[BAD] = value
    table = with_column(table, name, pa.array(values, table.schema.field(name).type))
    read = loader(write(tmp_path, table, row_group=8), requests=4)
    with pytest.raises(TableError, match=rf"requests\.parquet: column '{name}', row {BAD}: {message}"):
        list(read.batches(0))


def test_times_may_not_fall_between_row_groups_or_files(tmp_path: Path) -> None:
    later = write(tmp_path, request_table(8, first=8), row_group=8, name="later.parquet")
    earlier = write(tmp_path, request_table(8), row_group=8, name="earlier.parquet")
    with pytest.raises(TableError, match=r"earlier\.parquet: .*row 0: expected ascending times, got 1000 after 1015"):
        list(loader([later, earlier], requests=4).batches(0))


def test_what_is_no_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no table at all, but long enough to be one")
    for name, told in {"text.parquet": "not a readable Parquet file", "none.parquet": "no such file"}.items():
        with pytest.raises(TableError, match=rf"{name}: {told}"):
            RequestTable.open(tmp_path / name, FORMAT)


def test_a_damaged_row_group_is_named(tmp_path: Path) -> None:
    table, file = request_table(400), tmp_path / "requests.parquet"
    pq.write_table(table, file, row_group_size=100, compression="zstd")
    column = pq.ParquetFile(file).metadata.row_group(2).column(1)
    damaged = bytearray(file.read_bytes())
    start = column.data_page_offset
    damaged[start : start + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    file.write_bytes(damaged)
    read = loader(file, requests=10, shuffle_window=1)
    given = []
    with pytest.raises(TableError, match=r"requests\.parquet: cannot be read from row 200 on"):
        for batch in read.batches(0):
            given.append(batch)  # noqa: PERF402 (what came before the error counts)
    assert numbers(given) == list(range(200))


def test_a_folder_of_request_tables_is_read_like_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "requests"
    folder.mkdir()
    files = [write(folder, request_table(8, first=n), row_group=5, name=f"{n:02}.parquet") for n in (0, 8, 16)]
    moments = request_table(8, first=8)
    pq.write_table(with_column(moments, "time", moments.column("time").cast(pa.timestamp("s"))), files[1])
    assert numbers(loader(folder, requests=4, shuffle_window=1).batches(0)) == list(range(24))
    bad = with_column(request_table(8, first=16), "age", [1.0] * 6 + [float("inf")] * 2)
    pq.write_table(bad, files[2], row_group_size=5)
    with pytest.raises(TableError, match=rf"^{files[2]}: column 'age', row 6: expected a finite number"):
        list(loader(folder, requests=4).batches(0))


def test_texts_of_any_length_are_read() -> None:
    """Arrow joins no texts of more than 2 GiB whose offsets have 32 bits."""
    tables = request_table(2).select(["city", "seen"])
    rows = Rows("x", pa.concat_tables([tables, tables]))
    assert rows.read("city", FORMAT.features["city"], nullable=True).type == pa.large_string()
    names = pa.chunked_array([pa.array([["a"], ["b", "c"]]), pa.array([["d"]])])
    values, lengths = Rows("x", pa.table({"seen": names})).read_lists("seen", pa.large_string())
    assert (values.type, values.to_pylist(), lengths.tolist()) == (pa.large_string(), ["a", "b", "c", "d"], [1, 2, 1])
