"""Arguments as Python's callers give them: whole numbers, words and arrays of numbers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from silverray.shard.api import InvalidRequest, shown

_KINDS = {"O": "other values", "S": "texts", "U": "texts"}


def is_whole(value: object) -> bool:
    """Whether a value is an integer, NumPy's included; truth values are none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def whole_number(value: Any, expected: str, least: int, most: int, where: str) -> int:
    """Read a whole number.

    Args:
        value: as it was given.
        expected: what is expected, for the message.
        least: of what is taken.
        most: likewise.
        where: name of the argument.

    Raises:
        InvalidRequest: it is no whole number, or outside the range.
    """
    if not is_whole(value) or not least <= value <= most:
        raise InvalidRequest(f"expected {expected}, got {_told(value)}", where)
    return int(value)


def check_word(value: object, words: Sequence[str | None], where: str) -> None:
    """Refuse what is none of some words.

    Raises:
        InvalidRequest: the message names them.
    """
    if not (value is None or isinstance(value, str)) or value not in words:
        known = " or ".join("None" if word is None else repr(word) for word in words)
        raise InvalidRequest(f"expected {known}, got {_told(value)}", where)


def float32_array(value: Any, where: str) -> NDArray[np.float32]:
    """Read numbers from whatever holds them: an array, a tensor on any device, a data frame, lists.

    What is beyond float32 becomes infinite.

    Args:
        value: as it was given.
        where: name of the argument.

    Raises:
        InvalidRequest: it holds something else, or rows of different lengths.
    """
    if type(value) is np.ndarray and value.dtype == np.float32:
        return value
    if np.ma.is_masked(value):
        raise InvalidRequest("expected numbers, got an array that masks some", where)
    try:
        torch = sys.modules.get("torch")  # not imported, as whoever has a tensor has it, and a client may not
        if torch is not None and isinstance(value, torch.Tensor):
            value = value.detach().cpu()
            value = value.float() if value.is_floating_point() and value.itemsize < 4 else value  # NumPy lacks bfloat16
        array = np.asarray(value)
        if array.dtype == object:  # such as a column of lists
            array = np.asarray(array.tolist())
    except (TypeError, ValueError, RuntimeError):
        raise InvalidRequest(f"expected rows of numbers, all of one length, got {_told(value)}", where) from None
    if array.dtype.kind not in "iuf":
        got = _KINDS.get(array.dtype.kind, array.dtype.name)
        raise InvalidRequest(f"expected numbers, got {got}", where)
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def _told(value: object) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    return "None" if value is None else shown(value)
