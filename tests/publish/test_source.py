"""The door of publishing: ids and vectors of any Arrow type, and what is kept of the columns."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from silverray.shard.api import InvalidRequest
from silverray.shard.local import LocalSearcher
from silverray.shard.publish.builder import publish
from silverray.shard.publish.source import read_source
from silverray.shard.schema import casts
from silverray.shard.schema.schema import Schema
from silverray.shard.searcher import ShardSearcher


def schema(fields: str = "{}", dimension: int = 2) -> Schema:
    return Schema.parse(f"{{id: id, vector: {{dimension: {dimension}, metric: ip}}, fields: {fields}}}")


def vectors(n: int) -> Any:
    return np.random.default_rng(0).standard_normal((n, 2)).astype(np.float32)


@pytest.mark.parametrize(
    "ids",
    [
        pa.array(["a", "b", "c"]).cast(pa.string_view()),
        pa.array(["a", "b", "c"]).dictionary_encode(),
        pa.array([3, 5, 7], pa.uint8()),
        pa.array([3, 5, 7]).dictionary_encode(),
        pa.array([Decimal(3), Decimal(5), Decimal(7)], pa.decimal128(38, 0)),
        pa.RunEndEncodedArray.from_arrays(pa.array([1, 2, 3], pa.int32()), pa.array(["a", "b", "c"])),
    ],
    ids=lambda ids: str(ids.type),
)
def test_ids_of_any_form(ids: Any) -> None:
    source = read_source(pa.table({"id": ids}), schema(), vectors(3))
    text = source.id_type == "string"
    assert source.items.column("id").to_pylist() == (["a", "b", "c"] if text else [3, 5, 7])
    assert source.items.column("id").type == (pa.large_string() if text else pa.int64())


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (pa.array([1.0]), "column 'id': ids must be integers or strings, got double"),
        (pa.array([b"a"]), "column 'id': ids must be integers or strings, got binary"),
        (
            pa.array([b"0" * 16], pa.binary(16)).cast(pa.uuid()),
            "ids must be integers or strings, got extension<arrow.uuid>",
        ),
        (pa.array([1, 2**63], pa.uint64()), "column 'id', row 1: an id must be 0 to 2^63 - 1, got 9223372036854775808"),
        (pa.array([1, -1]), "column 'id', row 1: an id must be 0 to 2^63 - 1, got -1"),
        (pa.array([Decimal("1.5")]), "column 'id', row 0: an id must be 0 to 2^63 - 1, got 1.5"),
        (pa.array(["a", None]).dictionary_encode(), "column 'id', row 1: an id cannot be null"),
        (pa.array(["a", "b", "a"]).dictionary_encode(), "rows 0 and 2: id 'a' stands twice"),
    ],
)
def test_ids_that_are_refused(ids: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_source(pa.table({"id": ids}), schema(), vectors(len(ids)))
    assert message in str(caught.value)


VALUES = [[1, 2], [3, 4], [5, 6]]
NUMBERS = [pa.float16(), pa.float32(), pa.float64(), pa.int8(), pa.uint64(), pa.decimal128(9, 1)]


@pytest.mark.parametrize("number", NUMBERS, ids=str)
@pytest.mark.parametrize("of", [pa.list_, pa.large_list, pa.list_view, pa.large_list_view, lambda n: pa.list_(n, 2)])
def test_vectors_of_any_form(of: Any, number: pa.DataType) -> None:
    column = pa.array([None, *VALUES], of(pa.float64() if pa.types.is_float16(number) else number)).slice(1)
    if pa.types.is_float16(number):
        column = pa.array(np.array(VALUES, np.float16).tolist(), of(number))
    source = read_source(pa.table({"id": range(3), "vector": column}), schema(), None)
    assert source.vectors.given.tolist() == VALUES and source.vectors.given.dtype == np.float32


def test_a_tensor_column_holds_vectors() -> None:
    tensor = pa.FixedShapeTensorArray.from_numpy_ndarray(np.array(VALUES, np.float32))
    source = read_source(pa.table({"id": range(3), "vector": tensor}), schema(), None)
    assert source.vectors.given.tolist() == VALUES


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([[True, False]]), "column 'vector': expected lists of numbers, got list<"),
        (pa.array([[date(2000, 1, 1)] * 2]), "column 'vector': expected lists of numbers, got list<"),
        (pa.array([["1", "2"]]), "column 'vector': expected lists of numbers, got list<"),
        (pa.array([[[1.0, 2.0]]]), "column 'vector': expected lists of numbers, got list<"),
        (pa.array([{"re": 1.0, "im": 2.0}]), "column 'vector': expected lists of numbers, got struct<"),
        (pa.array([1.0]), "column 'vector': expected lists of numbers, got double"),
        (pa.array([[1.0, 2.0], None]), "column 'vector', row 1: is null"),
        (pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)), "column 'vector', row 1: is null"),
        (pa.array([[1.0, 2.0], [3.0, None]]), "column 'vector', row 1: expected 2 numbers, got null in them"),
        (pa.array([[1, 2], [3, None]]), "column 'vector', row 1: expected 2 numbers, got null in them"),
        (pa.array([[1.0, 2.0], [3.0]]), "column 'vector', row 1: has 1 numbers, row 0 has 2"),
    ],
)
def test_what_is_no_vector_is_refused(column: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_source(pa.table({"id": range(len(column)), "vector": column}), schema(), None)
    assert str(caught.value).startswith(message)


def test_stored_columns_have_one_type_and_no_dictionary() -> None:
    titles = [f"a title of some length, {n}" for n in range(100)]
    table = pa.table(
        {
            "id": range(100),
            "title": pa.array(titles).dictionary_encode(),
            "seen": pa.array(range(100), pa.int8()),
            "words": pa.array([["x"]] * 100, pa.list_(pa.string_view())),
        }
    )
    fields = "{title: {type: category, filter: false}, seen: {type: int}, words: {type: tags, filter: false}}"
    payload = read_source(table, schema(fields), vectors(100)).payload
    assert payload.schema.types == [pa.large_string(), pa.int64(), pa.large_list(pa.large_string())]
    assert payload.column("title").to_pylist() == titles
    assert payload.take(pa.array([5])).nbytes < 200


@pytest.mark.parametrize(
    ("spec", "column", "message"),
    [
        (
            "int",
            pa.array([0, 2**64 - 1], pa.uint64()),
            "column f, row 1: expected an integer below 2^63, got 18446744",
        ),
        ("date", pa.array([0, 5]).cast(pa.date64()), "column f, row 1: expected a date, or midnight UTC of one"),
    ],
)
def test_what_no_log_could_change_is_not_published(spec: str, column: Any, message: str, tmp_path: Path) -> None:
    table = pa.table({"id": range(2), "f": column})
    with pytest.raises(ValueError) as caught:
        publish(table, schema(f"{{f: {{type: {spec}, filter: false}}}}"), tmp_path, vectors=vectors(2), version="v")
    assert str(caught.value).startswith(message)
    assert not list(tmp_path.iterdir())


def test_every_field_type_is_served_with_and_without_a_log(tmp_path: Path) -> None:
    view = pa.array(["a", "b", "c"]).cast(pa.string_view())
    table = pa.table(
        {
            "id": view,
            "c": view,
            "t": pa.array([["a"], [], ["b"]], pa.list_view(pa.string_view())),
            "u": pa.array([1, 2, 2**63 - 1], pa.uint64()),
            "x": pa.array([1, 2, 3], pa.int16()),
            "b": pa.array([0, 1, 1], pa.int32()),
            "d": pa.array([0, 86_400, -86_400]).cast(pa.timestamp("s", "UTC")),
        }
    )
    spec = "{c: {type: category}, t: {type: tags}, u: {type: int}, x: {type: float}, b: {type: bool}, d: {type: date}}"
    publish(table, schema(spec), tmp_path, vectors=vectors(3), version="v", partitions=2)
    wanted = {
        "c": ["a", "b", "c"],
        "t": [["a"], [], ["b"]],
        "u": [1, 2, 2**63 - 1],
        "x": [1.0, 2.0, 3.0],
        "b": [False, True, True],
        "d": ["1970-01-01", "1970-01-02", "1969-12-31"],
    }
    for slack in (None, 0.1):
        engine = ShardSearcher.open(tmp_path / "v", slack=slack).engine
        (slots,) = np.nonzero(engine.payload.slot_keys >= 0)
        order = np.argsort(engine.payload.ids(slots))
        assert engine.payload.fields(list(wanted), slots[order]) == wanted


def test_a_date_of_an_older_version_keeps_no_item_from_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(casts, "LAST_DAY", 2**31)  # which older versions did not look at
    table = pa.table({"id": range(6), "d": pa.array([0, 1, 2, 3, 4, 3_000_000], pa.int32()).cast(pa.date32())})
    publish(table, schema("{d: {type: date}}"), tmp_path, vectors=vectors(6), version="far")
    engine = LocalSearcher.open(tmp_path / "far").engine
    slots = engine.payload.slots(np.arange(6))
    assert engine.payload.fields(["d"], slots)["d"] == [f"1970-01-0{n}" for n in range(1, 6)] + ["+10183-09-21"]


def test_queries_are_real_numbers(tmp_path: Path) -> None:
    publish(pa.table({"id": range(3)}), schema(), tmp_path, vectors=vectors(3), version="v")
    searcher = LocalSearcher.open(tmp_path / "v")
    for query in (np.array([[1j, 1]]), np.array([[True, False]]), np.array([["1", "2"]]), np.array([[1, None]])):
        with pytest.raises(InvalidRequest, match="expected numbers, got"):
            searcher.search_batch(query, k=1)
    for number in (np.float16, np.float64, np.int8, np.uint64):
        assert searcher.search_batch(np.array([[1, 2]], number), k=1).counts.tolist() == [1]
