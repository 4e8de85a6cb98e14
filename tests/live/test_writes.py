from datetime import date

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from silverray.shard.live.writes import Delete, Patch, Upsert, Write, decode, encode

IDS = st.integers(0, 2**63 - 1) | st.text(min_size=1, max_size=20)
VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=10)
    | st.lists(st.text(max_size=5), max_size=3)
    | st.dates()
)
FIELDS = st.dictionaries(st.sampled_from(["a", "b", "c"]), VALUES)
VECTORS = st.lists(st.floats(width=32), max_size=5).map(lambda numbers: np.array(numbers, dtype=np.float32))
WRITES = (
    st.builds(Upsert, IDS, VECTORS, FIELDS, st.sampled_from(["", "v1"]))
    | st.builds(Delete, IDS)
    | st.builds(Patch, IDS, FIELDS)
)


def plain(write: Write) -> tuple[object, ...]:
    rest = () if isinstance(write, Delete) else (write.fields,)
    vector = (write.vector.dtype, write.vector.tobytes(), write.space) if isinstance(write, Upsert) else ()
    return type(write), write.id, type(write.id), *rest, *vector


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(WRITES, max_size=5))
def test_decoding_undoes_encoding(writes: list[Write]) -> None:
    assert list(map(plain, decode(encode(writes)))) == list(map(plain, writes))


def test_the_form_is_fixed() -> None:
    writes: list[Write] = [
        Upsert(7, np.array([1, -2], np.float32), {"day": date(2001, 5, 31)}, "v1"),
        Delete("x"),
        Patch(7, {"a": None}),
    ]
    assert encode(writes).hex() == (
        "92" "01" "93"
        "95" "00" "07" "c408" "0000803f" "000000c0" "81" "a3646179" "d6" "01" "d12c0000" "a27631"
        "92" "01" "a178"
        "93" "02" "07" "81" "a161" "c0"
    )  # fmt: skip


def test_another_format_is_refused() -> None:
    for body in (msgpack.packb([2, []]), msgpack.packb({}), msgpack.packb([])):
        with pytest.raises(ValueError, match="expected format 1, got"):
            decode(body)
    with pytest.raises(ValueError, match="extension type 9"):
        decode(msgpack.packb([1, [[1, msgpack.ExtType(9, b"")]]]))


@pytest.mark.parametrize(
    "row", [5, [], [1], [1, -1], [1, 2**63], [1, None], [1, 2, 3], [3, 7, {}], [2, 7, []], [0, 7, b"123", {}, ""]]
)
def test_what_is_no_write_is_refused(row: object) -> None:
    with pytest.raises(ValueError):
        decode(msgpack.packb([1, [row]]))


def test_damaged_bodies_are_value_errors() -> None:
    """Whatever stands there, what comes out is writes or that one error."""
    body = bytearray(encode([Upsert("a", np.ones(2, np.float32), {"day": date(2001, 5, 31)}, "v"), Patch(7, {"b": 1})]))
    for place in range(len(body)):
        for value in range(256):
            damaged = bytes(body[:place]) + bytes([value]) + bytes(body[place + 1 :])
            try:
                writes = decode(damaged)
            except ValueError:
                continue
            assert all(type(write.id) in (int, str) for write in writes)
    for end in range(len(body)):
        with pytest.raises(ValueError):
            decode(bytes(body[:end]))
