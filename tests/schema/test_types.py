"""One rule for types: what publishing takes, converting and live writes take too; the table of docs/types.md."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from silverray.shard.live.checks import WriteError, check_value
from silverray.shard.parquet.rows import Rows, TableError, check_type
from silverray.shard.schema.accepted import accept, same_float
from silverray.shard.schema.arrow import canonical
from silverray.shard.schema.casts import ARROW_TYPES, CastError, cast
from silverray.shard.schema.columns import ColumnError
from silverray.shard.schema.schema import Field, Schema

TEXTS = [pa.string(), pa.large_string(), pa.string_view()]
INTS = [pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64()]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]
DECIMALS = [pa.decimal32(9, 2), pa.decimal64(18, 2), pa.decimal128(30, 2), pa.decimal256(60, 2)]
DATES = [pa.date32(), pa.date64()]
MOMENTS = [pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Europe/Berlin")]
LISTS = [pa.list_, pa.large_list, pa.list_view, pa.large_list_view, lambda text: pa.list_(text, 2)]
BERLIN = timezone(timedelta(hours=1))

TAKEN: list[tuple[str, list[pa.DataType], Any, Any]] = [
    ("category", TEXTS, "Österreich", "Österreich"),
    ("tags", [of(text) for of in LISTS for text in TEXTS], ["a", "b"], ["a", "b"]),
    ("int", INTS, 7, 7),
    ("int", [pa.int64()], -(2**63), -(2**63)),
    ("int", DECIMALS, Decimal("7.00"), 7),
    ("float", FLOATS, 0.5, 0.5),
    ("float", INTS, 7, 7.0),
    ("float", [pa.int64(), pa.uint64()], 2**60, 2.0**60),
    ("float", [pa.int64(), pa.uint64()], 1_152_921_504_606_847_000, 2.0**60),
    ("float", DECIMALS, Decimal("0.10"), 0.1),
    ("float", [pa.decimal128(38, 20)], Decimal("123.45000000000000000000"), 123.45),
    ("bool", [pa.bool_()], True, True),
    ("bool", INTS, 1, True),
    ("bool", INTS, 0, False),
    ("date", DATES, date(2001, 5, 31), date(2001, 5, 31)),
    ("date", [pa.date32()], date(1, 1, 1), date(1, 1, 1)),
    ("date", [pa.date32()], date(9999, 12, 31), date(9999, 12, 31)),
    ("date", MOMENTS, datetime(2001, 5, 31, tzinfo=UTC), date(2001, 5, 31)),
    ("date", MOMENTS, datetime(1969, 12, 31, 1, tzinfo=BERLIN), date(1969, 12, 31)),
]
REFUSED: list[tuple[str, list[pa.DataType], Any]] = [
    ("category", [pa.int64()], 7),
    ("category", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(1)], b"a"),
    ("category", [pa.struct({"a": pa.string()}), pa.map_(pa.string(), pa.string())], {"a": "b"}),
    ("tags", [pa.string()], "a"),
    ("tags", [pa.list_(pa.int64())], [1]),
    ("tags", [pa.list_(pa.list_(pa.string()))], [["a"]]),
    ("tags", [of(pa.string()) for of in LISTS], ["a", None]),
    ("int", FLOATS, 7.0),
    ("int", [pa.bool_()], True),
    ("int", [pa.uint64()], 2**63),
    ("int", DECIMALS, Decimal("7.50")),
    ("int", [pa.decimal128(38, 0)], Decimal(2**63)),
    ("int", [pa.duration("s"), pa.time32("s"), pa.time64("us")], 1),
    ("float", [pa.bool_()], True),
    ("float", [pa.string()], "0.5"),
    ("float", [pa.int64(), pa.uint64()], 2**53 + 1),
    ("float", [pa.decimal128(38, 20)], Decimal("0.12345678901234567891")),
    ("bool", INTS, 2),
    ("bool", FLOATS, 1.0),
    ("bool", [pa.string()], "true"),
    ("date", MOMENTS, datetime(2001, 5, 31, 0, 0, 1, tzinfo=UTC)),
    ("date", MOMENTS, datetime(2001, 5, 31, tzinfo=BERLIN)),
    ("date", [pa.int32()], 3),
    ("date", [pa.time64("us"), pa.duration("ms")], 1),
]
CONVERTED = {"category": pa.string(), "tags": pa.list_(pa.string()), "int": pa.int64(), "float": pa.float64()}
"""What `convert` reads of the types of fields; it has no booleans and dates."""


def schema(type_: str, **rules: Any) -> Schema:
    return Schema(id="id", vector={"dimension": 2, "metric": "ip"}, fields={"f": Field(type=type_, **rules)})  # type: ignore[arg-type]


def published(array: Any, type_: str, **rules: Any) -> list[Any]:
    found: list[Any] = canonical(pa.table({"f": array}), schema(type_, **rules)).column("f").to_pylist()
    return found


def converted(array: Any, type_: str) -> list[Any]:
    table = pa.table({"f": array})
    wanted = CONVERTED[type_]
    check_type("t.parquet", table.schema, "f", wanted)
    rows = Rows("t.parquet", table)
    found = rows.read_lists("f", wanted.value_type)[0] if type_ == "tags" else rows.read("f", wanted)
    return list(found.to_pylist())


def cases(rows: list[Any]) -> list[Any]:
    return [
        pytest.param(type_, arrow, *rest, id=f"{type_}-{arrow}-{rest[0]}")
        for type_, arrows, *rest in rows
        for arrow in arrows
    ]


@pytest.mark.parametrize(("type_", "arrow", "given", "expected"), cases(TAKEN))
def test_taken_everywhere(type_: Any, arrow: pa.DataType, given: Any, expected: Any) -> None:
    array = pa.array([given], arrow)
    for filter_ in (True, False):
        assert published(array, type_, filter=filter_) == [expected]
    assert check_value(given, "f", Field(type=type_)) == expected
    assert type(accept(given, type_)) is type(expected)
    if type_ in CONVERTED:
        assert converted(array, type_) == (expected if type_ == "tags" else [expected])


@pytest.mark.parametrize(("type_", "arrow", "given"), cases(REFUSED))
def test_refused_everywhere(type_: Any, arrow: pa.DataType, given: Any) -> None:
    array = pa.array([given, given], arrow)
    for filter_ in (True, False):
        with pytest.raises(ColumnError, match=r"^column f(, row 0)?: expected .*, got "):
            published(array, type_, filter=filter_)
    if not isinstance(given, int) or not pa.types.is_temporal(arrow):  # of times JSON has no other form than numbers
        with pytest.raises(WriteError, match=r"^fields.f: expected .*, got "):
            check_value(7.5 if type_ == "date" else given, "f", Field(type=type_))
    if type_ in CONVERTED:
        with pytest.raises(TableError, match=r"^t.parquet: column 'f'(, row 0)?: expected .*, got "):
            converted(array, type_)


@pytest.mark.parametrize("days", [-719_163, 2_932_897, 3_000_000, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("filter_", [True, False])
def test_dates_that_python_cannot_say_are_refused_by_name(days: int, filter_: bool) -> None:
    array = pa.array([0, days], pa.int32()).cast(pa.date32())
    with pytest.raises(ColumnError, match=r"column f, row 1: expected a date from 0001-01-01 to 9999-12-31, got -?\d+"):
        published(array, "date", filter=filter_)
    with pytest.raises(ColumnError, match=r"column f, row 1: expected a date from 0001-01-01 to 9999-12-31"):
        published(array.cast(pa.timestamp("s")), "date", filter=filter_)


def test_a_date_far_away_is_written_out() -> None:
    with pytest.raises(ColumnError, match="got 10183-09-21"):
        published(pa.array([3_000_000], pa.int32()).cast(pa.date32()), "date")


@pytest.mark.parametrize("filter_", [True, False])
def test_a_date64_has_no_time_of_day(filter_: bool) -> None:
    array = pa.array([0, 86_400_000, 86_400_001]).cast(pa.date64())
    message = "column f, row 2: expected a date, or midnight UTC of one, got 1970-01-02T00:00:00.001"
    with pytest.raises(ColumnError, match=message):
        published(array, "date", filter=filter_)


ENCODED = ["a", "b", None, "a", "c"]


def run_ends(values: pa.Array) -> pa.Array:
    return pa.RunEndEncodedArray.from_arrays(pa.array([1, 2, 3, 4, 5], pa.int16()), values)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("encode", ["dictionary", "runs", "runs of a dictionary", "chunks"])
def test_encodings_are_undone(encode: str, text: pa.DataType) -> None:
    dictionary = pa.DictionaryArray.from_arrays(
        pa.array([0, 1, 3, 0, 2], pa.uint8()), pa.array(["a", "b", "c", None]).cast(text)
    )
    values = pa.array(ENCODED).cast(text)
    array: Any = {
        "dictionary": dictionary,
        "runs": run_ends(values),
        "runs of a dictionary": run_ends(dictionary),
        "chunks": pa.chunked_array([values[:2], values[2:]]),
    }[encode]
    assert published(array, "category", nullable=True) == ENCODED
    assert published(array.slice(1, 3), "category", nullable=True) == ENCODED[1:4]
    assert canonical(pa.table({"f": array}), schema("category", nullable=True)).column("f").type == pa.large_string()
    with pytest.raises(ColumnError, match="column f, row 2: expected a value, got none"):
        published(array, "category")


@pytest.mark.parametrize(
    ("type_", "given"), [("int", [5, 5, 6]), ("date", [date(2000, 1, 1)] * 3), ("bool", [True, False, True])]
)
def test_other_values_are_decoded_too(type_: Any, given: list[Any]) -> None:
    plain = pa.array(given, ARROW_TYPES[type_])
    runs = pa.RunEndEncodedArray.from_arrays(pa.array([1, 2, 3], pa.int32()), plain)
    assert published(runs, type_) == published(plain.dictionary_encode(), type_) == given


@pytest.mark.parametrize("of", LISTS[:4])
@pytest.mark.parametrize("start", [0, 1, 2])
def test_slices_of_lists(of: Any, start: int) -> None:
    given = [["a", "b"], None, [], ["c"], ["d"]]
    assert (
        published(pa.array(given, of(pa.string())).slice(start, 3), "tags", nullable=True) == given[start : start + 3]
    )


def test_a_missing_tag_is_named_by_row_and_place() -> None:
    array = pa.array([["a"], [], ["b", "c", None]])
    for filter_ in (True, False):
        with pytest.raises(ColumnError, match=r"row 2: expected strings in the list, got a missing value at \[2\]"):
            published(array, "tags", filter=filter_)


def test_extension_types() -> None:
    json, bool8 = pa.array(["{}"]).cast(pa.json_()), pa.array([1, 0], pa.int8()).cast(pa.bool8())
    assert published(json, "category") == ["{}"]
    assert published(bool8, "bool") == [True, False]
    for type_, storage in ((pa.uuid(), [b"0" * 16]), (pa.opaque(pa.string(), "money", "postgres"), ["1"])):
        array = pa.ExtensionArray.from_storage(type_, pa.array(storage, type_.storage_type))
        with pytest.raises(ColumnError, match=r"column f: expected strings, got extension<arrow\.(uuid|opaque)"):
            published(array, "category")


@pytest.mark.parametrize("filter_", [True, False])
def test_texts_are_utf8(filter_: bool) -> None:
    chunk = pa.array(["a", "b"])
    bytes_ = pa.array([b"c", b"\xff\xfe"])
    bad = pa.StringArray.from_buffers(2, bytes_.buffers()[1], bytes_.buffers()[2])  # as a file may hold them
    message = r"column f, row 3: expected a text in UTF-8, got b'\\xff\\xfe'"
    with pytest.raises(ColumnError, match=message):
        published(pa.chunked_array([chunk, bad]), "category", filter=filter_)
    with pytest.raises(ColumnError, match=message):
        published(pa.DictionaryArray.from_arrays(pa.array([0, 0, 0, 1]), bad), "category", filter=filter_)


def test_texts_get_wide_offsets_before_they_are_joined() -> None:
    """Chunks of 2 GiB cannot be joined while their offsets have 32 bits; their letters are not copied."""
    column = pa.chunked_array([pa.array(["a" * 100]), pa.array(["b" * 100])])
    wide = cast(column, pa.large_string())
    assert (wide.type, wide.num_chunks) == (pa.large_string(), 2)
    assert [chunk.buffers()[2].address for chunk in wide.chunks] == [c.buffers()[2].address for c in column.chunks]


def test_the_first_wrong_row_is_found_across_chunks() -> None:
    numbers = np.arange(1_000, dtype=np.uint64)
    numbers[[700, 900]] += np.uint64(2**63)
    column = pa.chunked_array([pa.array(numbers[:500]), pa.array(numbers[500:])])
    with pytest.raises(CastError) as caught:
        cast(column, pa.int64())
    assert (caught.value.row, caught.value.got) == (700, str(2**63 + 700))


def test_numbers_as_javascript_writes_them() -> None:
    rng = np.random.default_rng(0)
    for exponent in range(53, 69):
        for number in (2.0**exponent * rng.uniform(1, 2, 20)).tolist():
            assert same_float(int(Decimal(repr(number)))) == number
    assert same_float(2**53 + 1) is same_float(10**400) is same_float(Decimal("sNaN")) is None
