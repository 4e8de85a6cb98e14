"""JSON that others may have written: read within bounds, and refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Never

MOST_BYTES = 256 << 20
"""Longest document that is read. The manifest of 65,536 partitions has about 40 MB."""


def parse_json(content: bytes) -> Any:
    """Parse JSON strictly: NaN and infinities are none.

    Raises:
        ValueError: it is none, or nested too deeply.
    """
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


def _refuse(constant: str) -> Never:
    raise ValueError(f"expected JSON, got {constant}")
