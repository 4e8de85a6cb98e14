"""How kernels are compiled: once, kept on disk, and anew when any file of `kernels` changes."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

from numba import njit

_FOLDER = Path(__file__).parents[1]
_SOURCES = sha256(b"".join(file.read_bytes() for file in sorted(_FOLDER.rglob("*.py")))).hexdigest()


def _compiled(function: Any, **options: Any) -> Any:
    dispatcher = njit(function, nogil=True, cache=True, **options)
    # Numba looks only at a function's own file, though the code of others is compiled into it.
    dispatcher._cache._cache_file._source_stamp = _SOURCES
    return dispatcher


def kernel(function: Any) -> Any:
    """A function that other kernels, or Python, may call."""
    return _compiled(function)


def inlined(function: Any) -> Any:
    """A function that becomes part of its callers: what it is passed costs nothing."""
    return _compiled(function, inline="always")


def parallel_kernel(function: Any) -> Any:
    """A function whose loop over `prange` runs in several threads."""
    return _compiled(function, parallel=True)
