"""How long stored texts are, without reading them. Letters: N rows, m rows of one call."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def value_size(value: Any) -> int:
    """At least how many bytes a value takes on the wire; 0 for what is neither a text nor a list of texts."""
    if isinstance(value, str):
        return len(value)
    return sum(map(len, value)) if isinstance(value, list) else 0


def text_sizes(column: pa.ChunkedArray, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bytes of the texts in some rows of a stored column.

    Args:
        column: `[N]`, of any type; all that holds no texts has sizes of 0.
        rows: `[m]`.

    Returns:
        `[m]` int64, read off the offsets: no text is touched, so that it takes no longer where texts are long.
    """
    sizes, start = np.zeros(len(rows), dtype=np.int64), 0
    for chunk in column.chunks:
        inside = (rows >= start) & (rows < start + len(chunk))
        sizes[inside] = _sizes(chunk, rows[inside] - start)
        start += len(chunk)
    return sizes


def _sizes(array: pa.Array, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    type_ = array.type
    if pa.types.is_dictionary(type_):
        words = np.arange(len(array.dictionary))
        codes: NDArray[np.int64] = array.indices.take(pa.array(rows)).cast(pa.int64()).fill_null(-1).to_numpy()
        return np.append(_sizes(array.dictionary, words), 0)[codes]
    if _is_text(type_):
        return _between(_ends(array), rows, rows + 1)
    if (pa.types.is_list(type_) or pa.types.is_large_list(type_)) and _is_text(type_.value_type):
        ends: NDArray[Any] = array.offsets.to_numpy()
        return _between(_ends(array.values), ends[rows], ends[rows + 1])
    return np.zeros(len(rows), dtype=np.int64)


def _between(ends: NDArray[Any], first: NDArray[Any], last: NDArray[Any]) -> NDArray[np.int64]:
    sizes: NDArray[np.int64] = np.subtract(ends[last], ends[first], dtype=np.int64)
    return sizes


def _is_text(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_))


def _ends(texts: pa.Array) -> NDArray[Any]:
    """Where each text begins, and where the last one ends: `[N + 1]` int32 or int64, a view of the array."""
    width = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    offsets = texts.buffers()[1]
    if offsets is None or not offsets.size:  # an array of no texts may lack them
        return np.zeros(len(texts) + 1, dtype=np.int64)
    return np.frombuffer(offsets, dtype=width)[texts.offset : texts.offset + len(texts) + 1]
