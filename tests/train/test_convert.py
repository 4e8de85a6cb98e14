"""Impressions to requests: round trips, sessions, streaming, and what is refused."""

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from request_tables import FORMAT, request_table, with_column, write

from silverray.shard.parquet.rows import TableError
from silverray.shard.train import convert as module
from silverray.shard.train import impressions
from silverray.shard.train.convert import Conversion, convert, to_impressions
from silverray.shard.train.grouping import group
from silverray.shard.train.requests import RequestTable

SPAN = 20


def converted(folder: Path, rows: pa.Table, **options: Any) -> pa.Table:
    out = folder / "out.parquet"
    convert(write(folder, rows, name="impressions.parquet"), FORMAT, out, **{"span_s": SPAN, **options})
    assert {file.name for file in folder.iterdir()} == {"impressions.parquet", "out.parquet"}
    return pq.read_table(out)


@pytest.mark.parametrize("name", ["", "out.parquet", "below/out.parquet"])
def test_requests_are_not_written_among_impressions(tmp_path: Path, name: str) -> None:
    write(tmp_path, to_impressions(request_table(3), FORMAT), name="impressions.parquet")
    with pytest.raises(ValueError, match="out: expected a place outside of"):
        convert(tmp_path, FORMAT, tmp_path / name, span_s=SPAN)
    file = tmp_path / "impressions.parquet"
    before = file.read_bytes()
    with pytest.raises(ValueError, match="out: expected a place outside of"):
        convert(file, FORMAT, file, span_s=SPAN)
    assert file.read_bytes() == before


def spread(requests: pa.Table, *, seconds: int, seed: int = 0) -> pa.Table:
    """Impressions at times of their own, less than `seconds` after their request and so among those of others."""
    rows = to_impressions(requests, FORMAT)
    rng = np.random.default_rng(seed)
    times = rows.column("time").to_numpy()
    again = rows.column("request").to_numpy()
    first = np.diff(again, prepend=-1) != 0
    own = np.where(first, times, times + rng.integers(0, seconds, len(rows)))
    # Within a request the order of the items stays.
    own = np.array([own[np.searchsorted(again, request) : row + 1].max() for row, request in enumerate(again)])
    rows = with_column(rows, "time", own.tolist())
    return rows.take(np.argsort(own, kind="stable"))


def test_to_impressions_repeats_the_request() -> None:
    requests = request_table(4)
    rows = to_impressions(requests, FORMAT)
    assert rows.column("request").to_pylist() == [0, 1, 1, 2, 2, 2, 3, 3, 3, 3]
    assert rows.column("item").to_pylist() == [item for own in requests.column("items").to_pylist() for item in own]
    assert rows.column("seen").to_pylist() == requests.take([0, 1, 1, 2, 2, 2, 3, 3, 3, 3]).column("seen").to_pylist()
    assert "items" not in rows.column_names


def test_round_trip(tmp_path: Path) -> None:
    requests = request_table(300)
    assert converted(tmp_path, to_impressions(requests, FORMAT)).equals(requests)


@pytest.mark.parametrize("block", [1, 13, 65_536])
def test_impressions_of_a_request_may_lie_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(impressions, "BLOCK", block)
    requests = request_table(200)
    rows = spread(requests, seconds=SPAN)
    assert np.abs(np.diff(rows.column("request").to_numpy())).max() > 10
    assert converted(tmp_path, rows).equals(requests)


def test_text_ids_stay(tmp_path: Path) -> None:
    requests = request_table(20)
    schema = FORMAT.request_schema(pa.large_string(), pa.large_string())
    named = [[f"r{n}" for n in range(20)], [f"u{n % 7}" for n in range(20)]]
    requests = pa.table([*named, *requests.columns[2:]], schema=schema)
    assert converted(tmp_path, to_impressions(requests, FORMAT)).equals(requests)


def test_sessions_where_no_request_is_named(tmp_path: Path) -> None:
    rows = to_impressions(request_table(8), FORMAT).drop_columns(["request"]).slice(0, 9)
    users, times = [1, 1, 2, 1, 2, 1, 2, 1, 1], [0, 5, 5, 19, 24, 20, 25, 39, 41]
    order = np.argsort(times, kind="stable")
    rows = with_column(with_column(rows, "user", users), "time", times).take(order)
    ages = np.arange(9.0)
    rows = with_column(with_column(rows, "age", ages.tolist()), "item", list(range(100, 109)))
    found = converted(tmp_path, rows)
    # Of user 1 from second 0, of user 2 from 5, of 1 from 20, of 2 from 25, of 1 from 41.
    assert found.column("request").to_pylist() == [0, 1, 2, 3, 4]
    assert found.column("user").to_pylist() == [1, 2, 1, 2, 1]
    assert found.column("time").to_pylist() == [0, 5, 20, 25, 41]
    assert found.column("items").to_pylist() == [[100, 101, 103], [102, 105], [104, 107], [106], [108]]
    # User features are those of the first impression.
    assert found.column("age").to_pylist() == [0.0, 2.0, 4.0, 6.0, 8.0]


@pytest.mark.parametrize("block", [3, 65_536])
def test_sessions_do_not_depend_on_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    rows = spread(request_table(150), seconds=5).drop_columns(["request"])
    wanted = converted(tmp_path, rows, row_group=16)
    monkeypatch.setattr(impressions, "BLOCK", block)
    assert converted(tmp_path, rows, row_group=16).equals(wanted)
    assert wanted.column("request").to_pylist() == list(range(len(wanted)))
    assert sum(map(len, wanted.column("items").to_pylist())) == len(rows)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_can_be_timestamps(tmp_path: Path, unit: str) -> None:
    requests = request_table(5)
    rows = to_impressions(requests, FORMAT)
    moments = [datetime.datetime.fromtimestamp(s, datetime.UTC) for s in rows.column("time").to_pylist()]
    rows = with_column(rows, "time", pa.array(moments, pa.timestamp(unit, "UTC")))
    assert converted(tmp_path, rows).equals(requests)


@pytest.mark.parametrize(
    ("times", "got"),
    [
        ([1_600_000_000_000, 1_600_000_010_000], "1600000000000"),
        ([1_600_000_000, 1_600_000_000_000_000], "1600000000000000"),
        ([1_600_000_000, 1_600_000_000_000_000_000], "1600000000000000000"),
        ([-1_600_000_000_000, 0], "-1600000000000"),
        (pa.array([1_600_000_000, 1_600_000_000_000], pa.timestamp("s")), "1600000000000"),
    ],
)
def test_milliseconds_are_not_taken_for_seconds(tmp_path: Path, times: Any, got: str) -> None:
    rows = with_column(to_impressions(request_table(3), FORMAT).slice(0, 2), "time", times)
    row = next(row for row, time in enumerate(pa.array(times).cast(pa.int64()).to_pylist()) if str(time) == got)
    with pytest.raises(TableError) as caught:
        converted(tmp_path, rows)
    message = (
        f"column 'time', row {row}: expected seconds since 1970, of ten digits at most, got {got}; cast milliseconds"
    )
    assert message in str(caught.value)


def test_times_of_the_same_day_in_any_form_are_one_request(tmp_path: Path) -> None:
    rows = to_impressions(request_table(8), FORMAT).drop_columns(["request"]).slice(0, 2)
    rows = with_column(rows, "user", [1, 1])
    seconds = pa.array([1_600_000_000, 1_600_000_010])
    for times in (
        seconds,
        seconds.cast(pa.uint64()),
        pa.array([1_600_000_000_000, 1_600_000_010_000]).cast(pa.timestamp("ms", "Asia/Tokyo")),
        seconds.cast(pa.timestamp("s")).dictionary_encode(),
    ):
        found = converted(tmp_path, with_column(rows, "time", times))
        assert found.column("time").to_pylist() == [1_600_000_000]
        (tmp_path / "out.parquet").unlink()
    with pytest.raises(TableError, match=r"column 'time': expected int64 or timestamp.* got duration"):
        converted(tmp_path, with_column(rows, "time", seconds.cast(pa.duration("s"))))


def test_columns_of_newer_types(tmp_path: Path) -> None:
    requests = request_table(5)
    rows = to_impressions(requests, FORMAT)
    texts = rows.column("country").combine_chunks()
    rows = with_column(rows, "country", texts.cast(pa.string_view()))
    rows = with_column(rows, "city", rows.column("city").combine_chunks().cast(pa.large_string()).dictionary_encode())
    rows = with_column(rows, "seen", pa.array(rows.column("seen").to_pylist(), pa.large_list(pa.int32())))
    rows = with_column(rows, "item", rows.column("item").cast(pa.decimal128(20, 0)))
    rows = with_column(rows, "age", rows.column("age").cast(pa.decimal128(6, 2)))
    rows = with_column(rows, "liked", rows.column("liked").cast(pa.uint8()))
    assert converted(tmp_path, rows).equals(requests)


def test_labels_can_be_booleans_and_ids_narrow(tmp_path: Path) -> None:
    requests = request_table(5)
    rows = to_impressions(requests, FORMAT)
    rows = with_column(rows, "liked", rows.column("liked").cast(pa.bool_()))
    rows = with_column(rows, "item", rows.column("item").cast(pa.int32()))
    rows = with_column(rows, "country", rows.column("country").combine_chunks().dictionary_encode())
    assert converted(tmp_path, rows).equals(requests)


def test_row_groups_have_the_size_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(impressions, "BLOCK", 10)
    converted(tmp_path, to_impressions(request_table(50), FORMAT), row_group=16)
    groups = RequestTable.open(tmp_path / "out.parquet", FORMAT).groups
    assert [group.rows for group in groups] == [16, 16, 16, 2]


def test_memory_holds_a_span_not_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(impressions, "BLOCK", 64)
    held = []

    def counted(keys: Any, *arguments: Any, **options: Any) -> Any:
        held.append(len(keys))
        return group(keys, *arguments, **options)

    monkeypatch.setattr(module, "group", counted)
    converted(tmp_path, spread(request_table(4_000), seconds=SPAN), row_group=64)
    # 2.5 impressions a second.
    assert max(held) < 64 + 2 * SPAN * 4
    assert len(held) > 100


def test_progress_and_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(impressions, "BLOCK", 40)
    file = write(tmp_path, to_impressions(request_table(40), FORMAT))
    seen: list[tuple[int, int]] = []
    done = convert(file, FORMAT, tmp_path / "out.parquet", span_s=5, progress=lambda *at: seen.append(at))
    assert done == Conversion(100, 40)
    assert seen == [(40, 100), (80, 100), (100, 100)]


def test_an_empty_file_becomes_an_empty_table(tmp_path: Path) -> None:
    assert len(converted(tmp_path, to_impressions(request_table(0), FORMAT))) == 0
    assert len(RequestTable.open(tmp_path / "out.parquet", FORMAT)) == 0


@pytest.mark.parametrize("late", [SPAN, 3 * SPAN])
@pytest.mark.parametrize("block", [4, 65_536])
def test_a_request_may_not_go_on_after_its_span(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, late: int
) -> None:
    monkeypatch.setattr(impressions, "BLOCK", block)
    rows = to_impressions(request_table(100), FORMAT)
    times = rows.column("time").to_pylist()
    row = times.index(1_001 + late)
    requests = rows.column("request").to_pylist()
    requests[row] = 1
    with pytest.raises(TableError, match=rf"column 'request', row {row}: .*request 1 within 20 seconds of the first"):
        converted(tmp_path, with_column(rows, "request", requests))
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("age", 7.0, "3.0, got 7.0"), ("country", "US", "None, got 'US'"), ("seen", [1, 2], r"\[.*\], got \[1, 2\]")],
)
def test_a_request_may_not_contradict_itself(tmp_path: Path, name: str, value: Any, told: str) -> None:
    rows = to_impressions(request_table(10), FORMAT)
    values = rows.column(name).to_pylist()
    values[8] = value
    rows = with_column(rows, name, pa.array(values, rows.schema.field(name).type))
    with pytest.raises(TableError, match=rf"column '{name}', row 8: expected what request 3 said before, {told}"):
        converted(tmp_path, rows)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("request", None, "expected a value, got null"),
        ("time", None, "expected a value, got null"),
        ("time", 5, r"expected ascending times, got 5 after 10\d\d"),
        ("item", None, "expected a value, got null"),
        ("liked", None, "expected a value, got null"),
        ("liked", float("nan"), "expected a finite number, got nan"),
        ("age", float("inf"), "expected a finite number, got inf"),
        ("seen", None, "expected a value, got null"),
        ("seen", [None], "expected a list of values, got null in it"),
    ],
)
def test_bad_values_are_named_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Any, message: str
) -> None:
    monkeypatch.setattr(impressions, "BLOCK", 8)
    rows = to_impressions(request_table(20), FORMAT)
    rows = pa.table(rows.columns, names=rows.column_names)
    values = rows.column(name).to_pylist()
    values[21] = value
    rows = with_column(rows, name, pa.array(values, rows.schema.field(name).type))
    with pytest.raises(TableError, match=rf"impressions\.parquet: column '{name}', row 21: {message}"):
        converted(tmp_path, rows)


def test_a_user_is_needed_where_no_request_is_named(tmp_path: Path) -> None:
    rows = to_impressions(request_table(5), FORMAT)
    with pytest.raises(TableError, match="expected a column 'request' or 'user', there is neither"):
        converted(tmp_path, rows.drop_columns(["request", "user"]))
    unknown = with_column(rows, "user", pa.array([None] * len(rows), pa.int64()))
    assert converted(tmp_path, unknown).column("user").null_count == 5
    with pytest.raises(TableError, match="column 'user', row 0: expected a value, got null"):
        converted(tmp_path, unknown.drop_columns(["request"]))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("item", ["x"], "column 'item': expected int64, got string"),
        ("time", ["noon"], "column 'time': expected int64 or timestamp.*, got string"),
        ("liked", ["yes"], "column 'liked': expected float, got string"),
        ("request", [1.5], "column 'request': expected int64 or string, got double"),
    ],
)
def test_wrong_types_are_refused(tmp_path: Path, name: str, values: list[Any], message: str) -> None:
    rows = to_impressions(request_table(1), FORMAT)
    with pytest.raises(TableError, match=message):
        converted(tmp_path, with_column(rows, name, values))


def test_what_stood_there_stays_when_it_fails(tmp_path: Path) -> None:
    wanted = converted(tmp_path, to_impressions(request_table(5), FORMAT))
    rows = with_column(to_impressions(request_table(3), FORMAT), "age", [float("nan")] * 6)
    with pytest.raises(TableError):
        converted(tmp_path, rows)
    assert pq.read_table(tmp_path / "out.parquet").equals(wanted)


@pytest.mark.parametrize("option", ["span_s", "row_group"])
def test_bad_settings(tmp_path: Path, option: str) -> None:
    with pytest.raises(ValueError, match=f"{option}: expected 1 or more, got 0"):
        converted(tmp_path, to_impressions(request_table(1), FORMAT), **{option: 0})


def test_a_folder_of_files_is_one_table_whatever_types_they_have(tmp_path: Path) -> None:
    requests = request_table(40)
    rows = to_impressions(requests, FORMAT)
    folder = tmp_path / "impressions"
    for name, start, end in (("country=FR", 0, 36), ("country=US", 36, len(rows))):
        (folder / name).mkdir(parents=True)
        part = rows.slice(start, end - start)
        part = with_column(part, "country", [name[-2:]] * len(part))
        if start:
            part = with_column(part, "request", part.column("request").cast(pa.decimal128(20, 0)))
            part = with_column(part, "time", part.column("time").cast(pa.timestamp("s")))
            part = with_column(part, "seen", pa.array(part.column("seen").to_pylist(), pa.list_view(pa.int16())))
            part = part.drop_columns(["country"])
        pq.write_table(part, folder / name / "p.parquet")
    first = len(np.unique(rows.column("request").to_numpy()[:36]))
    wanted = with_column(requests, "country", pa.array(["FR"] * first + ["US"] * (40 - first), pa.large_string()))
    assert convert(folder, FORMAT, tmp_path / "out.parquet", span_s=SPAN) == Conversion(len(rows), 40)
    assert pq.read_table(tmp_path / "out.parquet").equals(wanted.cast(FORMAT.request_schema(user=pa.int64())))


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("age", [float("nan")] * 10, "column 'age', row 0: expected a finite number, got nan"),
        ("time", [5] * 10, "column 'time', row 0: expected ascending times, got 5 after 1003"),
        ("request", [0] * 10, "column 'user', row 0: expected what request 0 said before, 0, got 4"),
        ("item", ["x"] * 10, "column 'item': expected int64, got string"),
        ("request", ["x"] * 10, r"column 'request': expected int64 as in .*/0\.parquet, got string"),
    ],
)
def test_faults_name_the_file_of_a_folder_and_its_row(tmp_path: Path, name: str, values: Any, message: str) -> None:
    (tmp_path / "rows").mkdir()
    write(tmp_path / "rows", to_impressions(request_table(4), FORMAT), name="0.parquet")
    later = with_column(to_impressions(request_table(4, first=4), FORMAT), name, values)
    write(tmp_path / "rows", later, name="1.parquet")
    with pytest.raises(TableError, match=rf"^{tmp_path}/rows/1\.parquet: ({message})"):
        convert(tmp_path / "rows", FORMAT, tmp_path / "out.parquet", span_s=SPAN)


def test_paths_without_rows_and_columns_that_stand_twice_are_named(tmp_path: Path) -> None:
    rows = to_impressions(request_table(3), FORMAT)
    twice = rows.append_column("x", rows.column("age")).append_column("x", rows.column("age"))
    assert len(converted(tmp_path, twice)) == 3
    (tmp_path / "out.parquet").unlink()
    with pytest.raises(TableError, match=r"impressions\.parquet: column 'age' stands 2 times$"):
        converted(tmp_path, twice.append_column("age", rows.column("age")))
    (tmp_path / "empty").mkdir()
    for path, told in {
        tmp_path / "empty": "holds no Parquet file",
        Path("s3://b/x"): "only local paths are read",
    }.items():
        with pytest.raises(TableError, match=rf"^{path}: {told}"):
            convert(path, FORMAT, tmp_path / "out.parquet", span_s=SPAN)
