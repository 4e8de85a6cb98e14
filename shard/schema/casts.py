"""One rule for types, for Arrow's columns: a type takes what it holds without loss, however Arrow encodes it.

docs/types.md has the table; `accepted` is the same rule for Python's values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from silverray.shard.schema.accepted import same_float
from silverray.shard.schema.schema import FieldType

ARROW_TYPES: dict[FieldType, pa.DataType] = {
    "category": pa.large_string(),
    "tags": pa.large_list(pa.large_string()),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "date": pa.date32(),
}
"""Types that hold every value of a field, whatever type its column had when it was published."""

FIRST_DAY, LAST_DAY = -719_162, 2_932_896
"""0001-01-01 and 9999-12-31, in days since 1970-01-01: what live writes, and Python's dates, can say."""

PARTS_A_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
"""Of each unit of Arrow's times."""

_SECONDS_A_DAY = 86_400
"""Arrow's times know no leap seconds."""
_SHOWN = 60
"""Characters of a value that a message shows, beside file, column and row; a value may have millions."""
_AS_STORED = frozenset({"arrow.bool8", "arrow.json", "arrow.fixed_shape_tensor"})
"""Extension types whose storage says what they mean. `arrow.opaque`, for one, may store nothing at all."""


class CastError(ValueError):
    """A column, or a value of it, is not of a type.

    Args:
        expected: what it should have been.
        got: what it is, clipped.
        row: of the value; None for the column.
    """

    def __init__(self, expected: str, got: object, row: int | None = None) -> None:
        super().__init__(f"expected {expected}, got {str(got)[:_SHOWN]}")
        self.expected, self.got, self.row = expected, str(got)[:_SHOWN], row

    def at(self, row: int) -> CastError:
        """The same error at another row."""
        return CastError(self.expected, self.got, row)


def plain_name(type_: pa.DataType) -> str:
    """What messages call a type that is wanted, whatever the width of its offsets: `string`, `list<int64>`."""
    if is_list(type_):
        return f"list<{plain_name(type_.value_type)}>"
    return "string" if is_text(type_) else str(type_)


def decoded_type(type_: pa.DataType) -> pa.DataType:
    """The type of a column's values, without the encodings that `decoded` undoes."""
    if pa.types.is_dictionary(type_) or pa.types.is_run_end_encoded(type_):
        return decoded_type(type_.value_type)
    if getattr(type_, "extension_name", None) in _AS_STORED:
        return decoded_type(type_.storage_type)
    return type_


def decoded(array: pa.Array) -> pa.Array:
    """An array without dictionaries, runs, and extension types that mean what they store."""
    type_ = array.type
    if pa.types.is_dictionary(type_):
        return _wide(decoded(array.dictionary)).take(array.indices)
    if pa.types.is_run_end_encoded(type_):
        ends = array.run_ends.to_numpy()
        runs = np.searchsorted(ends, array.offset + np.arange(len(array)), side="right")
        return _wide(decoded(array.values)).take(pa.array(runs))
    if getattr(type_, "extension_name", None) in _AS_STORED:
        return decoded(array.storage)
    return array


def is_text(type_: pa.DataType) -> bool:
    """Whether values are texts; see `decoded_type`."""
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def is_list(type_: pa.DataType) -> bool:
    """Whether values are lists of any kind; see `decoded_type`."""
    kinds = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    )
    return any(kind(type_) for kind in kinds)


def is_numbers(type_: pa.DataType) -> bool:
    """Whether values are lists of numbers, such as vectors: Arrow would make numbers of dates, texts and truths."""
    kind = decoded_type(type_)
    if not is_list(kind):
        return False
    number, types = decoded_type(kind.value_type), pa.types
    return bool(types.is_floating(number) or types.is_integer(number) or types.is_decimal(number))


def fits(actual: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether `cast` can turn columns of a type into another, as far as their values let it.

    Args:
        actual: of the column.
        wanted: int64, float64, bool, date32, text, a list of these, or float32, which also takes booleans.
    """
    actual = decoded_type(actual)
    types = pa.types
    if types.is_null(actual):
        return True
    if is_list(wanted):
        return is_list(actual) and fits(actual.value_type, wanted.value_type)
    if is_text(wanted):
        return is_text(actual)
    if types.is_date(wanted):
        return bool(types.is_date(actual) or types.is_timestamp(actual))
    if types.is_boolean(wanted):
        return bool(types.is_boolean(actual) or types.is_integer(actual))
    whole = types.is_integer(actual) or types.is_decimal(actual)
    if types.is_integer(wanted):
        return bool(whole)
    return bool(whole or types.is_floating(actual) or (types.is_boolean(actual) and wanted == pa.float32()))


def cast(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    """A column in another type, without loss; floats may be rounded to narrower ones.

    Chunks stay what they are: only once texts have 64-bit offsets can they be joined, whatever their length.

    Args:
        column: whatever `fits`.
        wanted: see `fits`.

    Raises:
        CastError: the column does not fit, or a value does not.
    """
    if not fits(column.type, wanted):
        raise CastError(plain_name(wanted), column.type)
    chunks, first = [], 0
    for chunk in column.chunks:
        try:
            chunks.append(_cast(decoded(chunk), wanted))
        except CastError as error:
            raise error.at(first + (error.row or 0)) from None
        first += len(chunk)
    return pa.chunked_array(chunks, wanted)


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """A column in one chunk."""
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def _cast(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), wanted)
    if is_list(wanted):
        return _lists(array, wanted)
    if is_text(wanted):
        return _texts(array, wanted)
    if pa.types.is_date(wanted):
        return _dates(array)
    if pa.types.is_boolean(wanted):
        return _booleans(array)
    return _integers(array) if pa.types.is_integer(wanted) else _floats(array, wanted)


def _wide(array: pa.Array) -> pa.Array:
    """Values that can be taken any number of times: texts in a form that `take` knows and that has room for them."""
    return array.cast(pa.large_string()) if is_text(array.type) else array


def _texts(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    def checked(part: pa.Array) -> pa.Array:
        # Only a cast from bytes looks at them; files may hold any.
        return part.cast(pa.large_binary()).cast(pa.large_string())

    return _tried(array, checked, "a text in UTF-8", lambda row: ascii(array[row].as_buffer().to_pybytes())).cast(
        wanted
    )


def _integers(array: pa.Array) -> pa.Array:
    if pa.types.is_decimal(array.type):
        wide = _wide_decimals(array)
        return _tried(wide, lambda part: part.cast(pa.int64()), "a whole number of at most 64 bits")
    return _tried(array, lambda part: part.cast(pa.int64()), "an integer below 2^63")


def _wide_decimals(array: pa.Array) -> pa.Array:
    """Arrow casts decimals of 32 and 64 bits to few types."""
    type_ = array.type
    return array.cast(pa.decimal128(type_.precision, type_.scale)) if type_.bit_width < 128 else array


def _floats(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    if pa.types.is_floating(array.type) or pa.types.is_boolean(array.type):
        return array.cast(wanted)
    try:
        floats = _decimals_to_floats(array) if pa.types.is_decimal(array.type) else array.cast(pa.float64())
    except pa.ArrowInvalid:
        floats = _same_floats(array)
    return floats.cast(wanted)


def _decimals_to_floats(array: pa.Array) -> pa.Array:
    """Through texts, which are read as the nearest float64 and written so that they are read as the same again."""
    wide = _wide_decimals(array)
    floats = wide.cast(pa.string()).cast(pa.float64())
    same = pc.equal(floats.cast(pa.string()).cast(wide.type), wide)
    return floats if pc.all(same, min_count=0).as_py() else _same_floats(array)


def _same_floats(array: pa.Array) -> pa.Array:
    floats: list[float | None] = []
    for row, value in enumerate(array.to_pylist()):
        floats.append(None if value is None else same_float(value))
        if floats[-1] is None and value is not None:
            raise CastError("a number that float64 holds", value, row)
    return pa.array(floats, pa.float64())


def _booleans(array: pa.Array) -> pa.Array:
    if pa.types.is_boolean(array.type):
        return array
    _refuse(array, pc.is_in(array, pa.array([0, 1, None], array.type)), "a boolean, 0 or 1")
    return array.cast(pa.bool_())


def _dates(array: pa.Array) -> pa.Array:
    type_ = array.type
    if pa.types.is_date32(type_):
        parts_a_day, numbers = 1, array.cast(pa.int32()).cast(pa.int64())
    else:
        unit = "ms" if pa.types.is_date64(type_) else type_.unit
        parts_a_day, numbers = _SECONDS_A_DAY * PARTS_A_SECOND[unit], array.cast(pa.int64())
    parts = numbers.fill_null(0).to_numpy()
    days = parts // parts_a_day
    unit = "D" if pa.types.is_date32(type_) else unit
    shown = parts.view(f"datetime64[{unit}]")
    if len(off := np.flatnonzero(days * parts_a_day != parts)):
        raise CastError("a date, or midnight UTC of one", shown[off[0]], int(off[0]))
    if len(far := np.flatnonzero((days < FIRST_DAY) | (days > LAST_DAY))):
        date = days.view("datetime64[D]")[far[0]]
        raise CastError("a date from 0001-01-01 to 9999-12-31", date, int(far[0]))
    return pa.array(days.astype(np.int32), mask=array.is_null().to_numpy(zero_copy_only=False)).cast(pa.date32())


def _lists(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    # Arrow's own cast loses values of list views that are slices, and keeps those of missing fixed-size lists.
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    try:
        values = _cast(decoded(pc.list_flatten(array)), wanted.value_type)
    except CastError as error:
        raise error.at(int(np.searchsorted(offsets, error.row or 0, side="right")) - 1) from None
    missing = array.is_null() if array.null_count else None
    return pa.LargeListArray.from_arrays(pa.array(offsets), values, mask=missing).cast(wanted)


def _refuse(array: pa.Array, good: pa.Array, expected: str) -> None:
    if not pc.all(good, min_count=0).as_py():
        row = pc.index(good, False).as_py()
        raise CastError(expected, array[row], row)


def _tried(
    array: pa.Array,
    attempt: Callable[[pa.Array], pa.Array],
    expected: str,
    shown: Callable[[int], Any] | None = None,
) -> pa.Array:
    """What an attempt makes of an array; where it fails, the first value that it fails at is found by halving."""
    try:
        return attempt(array)
    except pa.ArrowInvalid:
        start, end = 0, len(array)
    while end - start > 1:
        middle = (start + end) // 2
        try:
            attempt(array.slice(start, middle - start))
        except pa.ArrowInvalid:
            end = middle
        else:
            start = middle
    raise CastError(expected, array[start] if shown is None else shown(start), start)
