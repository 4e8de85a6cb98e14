"""Paths as Python's callers give them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def as_path(name: str, path: Any) -> Path:
    """A path, given as one or as a string.

    Args:
        name: of the argument.
        path: as it was given.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(path, str | Path) or not str(path) or "\0" in str(path):
        raise ValueError(f"{name}: expected a path, got {type(path).__name__}")
    return Path(path)
