"""Arrow files that others may have written: read in no more memory than they take on disk."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

_MAGIC = b"ARROW1\0\0"
# Numbers of fields in Arrow's Message.fbs.
_HEADER, _DATA_OF_DICTIONARY, _COMPRESSION = 2, 1, 3


def read_table(content: bytes, check: Callable[[pa.Schema], None]) -> pa.Table:
    """Read the table of an Arrow file, whose arrays are views of its bytes.

    Its messages are read one after another. The footer, which may name one of them many times, is not read.

    Args:
        content: the file.
        check: raises for a schema that is not the one expected, before anything else is read.

    Raises:
        pa.ArrowException, OSError, ValueError, TypeError: it is no such file, its arrays are compressed (a few bytes
            may then stand for any number), or they lie over each other.
    """
    if not content.startswith(_MAGIC):
        raise ValueError("expected an Arrow file")
    stream = pa.py_buffer(content)[len(_MAGIC) :]
    if any(map(_is_compressed, pa.ipc.MessageReader.open_stream(stream))):
        raise ValueError("expected arrays that are not compressed")
    with pa.ipc.open_stream(stream) as reader:
        check(reader.schema)
        table: pa.Table = reader.read_all()
    table.validate(full=True)
    own = sum(column.nbytes for column in table.columns if not _shares(column.type))
    if own > len(content):
        raise ValueError(f"expected arrays of at most {len(content)} bytes, got {own}: some lie over others")
    return table


def shared_text_bytes(table: pa.Table) -> int:
    """Bytes of the texts that rows share in dictionaries, once each row has its own."""
    return sum(_text_bytes(chunk) for column in table.columns if _shares(column.type) for chunk in column.chunks)


def _shares(type_: pa.DataType) -> bool:
    if pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_):
        return _shares(type_.value_type)
    return bool(pa.types.is_dictionary(type_))


def _text_bytes(array: pa.Array) -> int:
    if not pa.types.is_dictionary(array.type):
        return _text_bytes(array.flatten())
    if not (pa.types.is_string(array.dictionary.type) or pa.types.is_large_string(array.dictionary.type)):
        return 0
    sizes = pc.binary_length(array.dictionary).cast(pa.int64())
    return pc.sum(sizes.take(array.indices)).as_py() or 0


def _is_compressed(message: pa.Message) -> bool:
    """Whether a message has compressed arrays. That its offsets lead nowhere else was checked by Arrow."""
    if message.type == "schema":
        return False
    data = message.metadata
    header = _table(data, _start(data, 0), _HEADER)
    if message.type == "dictionary":
        header = _table(data, header, _DATA_OF_DICTIONARY)
    return _table(data, header, _COMPRESSION) > 0


def _table(data: pa.Buffer, table: int, field: int) -> int:
    """Where the table starts that is a field of another, in the encoding of FlatBuffers; 0 where there is none."""
    (back,) = struct.unpack_from("<i", data, table)
    (size,) = struct.unpack_from("<H", data, table - back)
    place = 4 + 2 * field
    (offset,) = struct.unpack_from("<H", data, table - back + place) if place < size else (0,)
    return _start(data, table + offset) if offset else 0


def _start(data: pa.Buffer, place: int) -> int:
    (offset,) = struct.unpack_from("<I", data, place)
    return place + int(offset)
