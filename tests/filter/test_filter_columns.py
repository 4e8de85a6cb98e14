"""Stored values: reading Arrow strictly, gathering, joining, tensors."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from silverray.shard.schema import arrow
from silverray.shard.schema.arrow import read_columns
from silverray.shard.schema.columns import ColumnError, Columns
from silverray.shard.schema.keys import hash_text
from silverray.shard.schema.schema import Schema


def schema(**fields: str) -> Schema:
    lines = "".join(f"  {name}: {{{spec}}}\n" for name, spec in fields.items())
    return Schema.parse(f"id: item\nvector: {{dimension: 2, metric: ip}}\nfields:\n{lines}")


def read(array: Any, spec: str) -> dict[str, list[Any]]:
    columns = read_columns(pa.table({"f": array}), schema(f=spec))
    return {name: tensor.tolist() for name, tensor in columns.fields["f"].to_tensors().items()}


A, B = hash_text("a"), hash_text("b")


@pytest.mark.parametrize(
    "type_", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_category(type_: pa.DataType) -> None:
    array = pa.array(["b", "a", None, "b"]).cast(type_)
    assert read(array, "type: category, nullable: true") == {
        "values": [B, A, 0, B],
        "present": [True, True, False, True],
    }
    assert read(array.slice(1, 1), "type: category") == {"values": [A]}


@pytest.mark.parametrize(
    "type_",
    [
        pa.list_(pa.string()),
        pa.large_list(pa.large_string()),
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
    ],
)
def test_tags(type_: pa.DataType) -> None:
    array = pa.array([["z"], ["a", "b"], None, [], ["b"]], type_)
    assert read(array.slice(1), "type: tags, nullable: true") == {
        "values": [A, B, B],
        "offsets": [0, 2, 2, 2, 3],
        "present": [True, False, True, True],
    }


def test_tags_of_a_fixed_number() -> None:
    array = pa.array([["a", "b"], None, ["b", "a"]], pa.list_(pa.string(), 2))
    found = read(array, "type: tags, nullable: true")
    assert found == {"values": [A, B, B, A], "offsets": [0, 2, 2, 4], "present": [True, False, True]}


@pytest.mark.parametrize("type_", [pa.int8(), pa.uint8(), pa.int32(), pa.int64(), pa.uint64()])
def test_int(type_: pa.DataType) -> None:
    assert read(pa.array([3, None, 7], type_), "type: int, nullable: true")["values"] == [3, 0, 7]


def test_int_keeps_all_bits() -> None:
    extremes = [2**63 - 1, -(2**63), 2**53 + 1]
    assert read(pa.array(extremes), "type: int") == {"values": extremes}


@pytest.mark.parametrize("type_", [pa.float16(), pa.float32(), pa.float64()])
def test_float(type_: pa.DataType) -> None:
    values = np.array([0.5, np.nan, -0.0, np.inf, -np.inf, 0.0], type_.to_pandas_dtype())
    found = read(pa.array(values, type_, mask=np.arange(6) == 5), "type: float, nullable: true")
    assert found == {
        "values": [0.5, 0.0, 0.0, np.inf, -np.inf, 0.0],
        "present": [True, False, True, True, True, False],
    }
    assert not np.signbit(found["values"][2])


def test_bool() -> None:
    assert read(pa.array([True, None, False]), "type: bool, nullable: true") == {
        "values": [1, 0, 0],
        "present": [True, False, True],
    }


@pytest.mark.parametrize("type_", [pa.date32(), pa.date64()])
def test_date(type_: pa.DataType) -> None:
    days = [datetime.date(1970, 1, 2), None, datetime.date(1969, 12, 30)]
    assert read(pa.array(days, type_), "type: date, nullable: true")["values"] == [1, 0, -2]


@pytest.mark.parametrize("kind", ["category", "tags", "int", "float", "bool", "date"])
def test_a_column_without_any_value(kind: str) -> None:
    found = read(pa.nulls(2), f"type: {kind}, nullable: true")
    assert found["present"] == [False, False]
    with pytest.raises(ColumnError, match=r"column f, row 0: expected a value, got none"):
        read(pa.nulls(2), f"type: {kind}")


def test_no_rows() -> None:
    columns = read_columns(pa.table({"f": pa.array([], pa.list_(pa.string()))}), schema(f="type: tags"))
    assert columns.items == 0
    assert columns.fields["f"].to_tensors()["offsets"].tolist() == [0]


@pytest.mark.parametrize(
    "array, spec, message",
    [
        (pa.array([1]), "type: category", "column f: expected strings, got int64"),
        (pa.array(["a"]), "type: tags", "column f: expected lists of strings, got string"),
        (pa.array([[1]]), "type: tags", "column f: expected lists of strings, got list<"),
        (pa.array([1.0]), "type: int", "column f: expected integers, got double"),
        (pa.array(["1"]), "type: float", "column f: expected floating-point numbers, got string"),
        (
            pa.array([1, 2**53 + 1]),
            "type: float",
            "column f, row 1: expected a number that float64 holds, got 9",
        ),
        (pa.array(["1"]), "type: bool", "column f: expected booleans, got string"),
        (pa.array([1, 0, 2]), "type: bool", "column f, row 2: expected a boolean, 0 or 1, got 2"),
        (pa.array(["2001-05-01"]), "type: date", "column f: expected dates (date32 or date64), got string"),
        (
            pa.array([datetime.datetime(2001, 5, 1), datetime.datetime(2001, 5, 1, 12)]),
            "type: date",
            "column f, row 1: expected a date, or midnight UTC of one, got 2001-05-01T12:00:00",
        ),
        (pa.array(["a", None]), "type: category", "column f, row 1: expected a value, got none"),
        (pa.array([1.0, 2.0, np.nan]), "type: float", "column f, row 2: expected a value, got none"),
        (pa.array([[], ["a"], ["b", None]]), "type: tags", "column f, row 2: expected strings in the list"),
        (pa.array([1, 2**63], pa.uint64()), "type: int", "column f, row 1: expected an integer below 2^63"),
        (pa.array([1]), "type: category, filter: false", "column f: expected strings, got int64"),
    ],
)
def test_errors_name_column_and_row(array: pa.Array, spec: str, message: str) -> None:
    with pytest.raises(ColumnError) as error:
        read(array, spec)
    assert str(error.value).startswith(message)


def test_an_absent_column_is_named() -> None:
    with pytest.raises(ColumnError, match="column f: expected integers, there is no such column"):
        read_columns(pa.table({"g": [1]}), schema(f="type: int"))


def test_colliding_texts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "hash_texts", lambda texts: np.array([len(text) for text in texts]))
    with pytest.raises(ColumnError, match="column f: 'ab' and 'cd' have the same 64-bit hash"):
        read(pa.array(["ab", "x", "cd", "ab"]), "type: category")


def test_gathering_joining_and_tensors(catalog: Any) -> None:
    columns: Columns = catalog.columns
    order = torch.randperm(columns.items, generator=torch.Generator().manual_seed(1))
    back = columns.take(order).take(torch.argsort(order))
    halves = Columns.concat([columns.take(torch.arange(700)), columns.take(torch.arange(700, columns.items))])
    copied = Columns.from_tensors(columns.to_tensors(), catalog.schema)
    for other in (back, halves, copied, columns.to("cpu")):
        assert other.items == columns.items
        assert other.to_tensors().keys() == columns.to_tensors().keys()
        for name, tensor in columns.to_tensors().items():
            assert torch.equal(other.to_tensors()[name], tensor), name


def test_taking_keeps_each_items_tags(catalog: Any) -> None:
    index = [5, 5, 0, 1_400]
    column = catalog.columns.take(torch.tensor(index)).fields["words"]
    for place, row in enumerate(index):
        found = column.values[column.offsets[place] : column.offsets[place + 1]]
        assert found.tolist() == [hash_text(word) for word in catalog.rows[row]["words"]]


def test_flat_names(catalog: Any) -> None:
    names = catalog.columns.to_tensors().keys()
    assert {"items", "year.values", "year.present", "genres.offsets", "genres.present", "words.offsets"} <= names
    assert "words.present" not in names
