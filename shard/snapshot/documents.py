"""JSON that others may have written: read within bounds, and refused in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Never

MOST_BYTES = 256 << 20
"""Longest document that is read. The manifest of 65,536 partitions has about 40 MB."""
MOST_VALUES = 4 << 20
"""Most values of a document: `[]` takes 2 bytes of it, and 64 of memory. That manifest has 0.8 million."""
MOST_HEADER_BYTES = 16 << 20
"""Longest header of a safetensors file, which is JSON as well: some hundred bytes an array."""


def parse_json(content: bytes) -> Any:
    """Parse JSON strictly: NaN and infinities are none.

    Raises:
        ValueError: it is none, or nested too deeply, or has too many values.
    """
    # Every value but the first comes after one of these; texts may have some too.
    if sum(map(content.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ValueError(f"expected at most {MOST_VALUES} values, got more")
    try:
        return json.loads(content, parse_constant=_refuse)
    except RecursionError:
        raise ValueError("expected JSON, got values that are nested too deeply") from None


def read_json(file: Path) -> Any:
    """Read a file of JSON.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no regular file, too long, or no JSON.
    """
    size = file.stat().st_size
    if not file.is_file():  # a pipe would be waited for
        raise ValueError("expected a file")
    require_short(size)
    return parse_json(file.read_bytes())


def require_short(size: int) -> None:
    """Refuse to read a document of too many bytes, by a ValueError."""
    if size > MOST_BYTES:
        raise ValueError(f"expected at most {MOST_BYTES} bytes, got {size}")


def header_bytes(start: bytes) -> int:
    """Length of a safetensors file's header, which the first 8 bytes of the file say.

    Raises:
        ValueError: it is longer than headers are.
    """
    if (length := int.from_bytes(start, "little")) > MOST_HEADER_BYTES:
        raise ValueError(f"expected a header of at most {MOST_HEADER_BYTES} bytes, got {length}")
    return length


def array_bytes(file: Path) -> int:
    """Size of the arrays of a safetensors file, of which only the length of the header is read.

    Raises:
        OSError: it cannot be read.
        ValueError: its header is longer than headers are, or than the file.
    """
    with file.open("rb") as stream:
        header = header_bytes(stream.read(8))
        size = os.fstat(stream.fileno()).st_size - 8 - header
    if size < 0:
        raise ValueError("its header is longer than the file")
    return size


def _refuse(constant: str) -> Never:
    raise ValueError(f"expected JSON, got {constant}")
