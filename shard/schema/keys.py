"""Item keys: the int64 by which items are ordered, partitioned and looked up."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

MAX_ID_BYTES = 512
"""Long enough for paths and URLs; the largest reply, of 10,000 items, has 5 MB of ids then, of the 64 MiB that it may
have."""


def hash_text(text: str) -> int:
    """Hash a text to a non-negative 63-bit integer that never changes between versions or machines.

    The first 8 bytes of BLAKE2b (RFC 7693) of the UTF-8 text, little-endian, with the top bit cleared.

    Example:
        >>> hash_text("jazz")
        4678694650079688067
    """
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little") & 0x7FFF_FFFF_FFFF_FFFF


def hash_texts(texts: Iterable[str]) -> NDArray[np.int64]:
    """Hash many texts: `[n]` int64, see `hash_text`."""
    return np.fromiter(map(hash_text, texts), dtype=np.int64)


def partition_of(keys: NDArray[np.int64], partitions: int) -> NDArray[np.int64]:
    """Assign keys to partitions.

    The partition is the key, mixed by the finaliser of SplitMix64 as an unsigned integer, modulo `partitions`. The
    mix is part of the snapshot format: changing it would move items between partitions.

    Args:
        keys: `[n]` int64.
        partitions: number of partitions.

    Returns:
        `[n]` int64 partition numbers.

    Source:
        Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014.
    """
    mixed = keys.astype(np.uint64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(partitions)).astype(np.int64)


def hashed_rows(keys: NDArray[np.int64], buckets: int) -> NDArray[np.int64]:
    """Assign keys to the rows of a hashed embedding table.

    Args:
        keys: `[n]` int64.
        buckets: number of rows besides row 0, which stands for "none".

    Returns:
        `[n]` int64 in 1 … `buckets`: 1 + the mix of `partition_of`, modulo `buckets`.
    """
    return partition_of(keys, buckets) + 1
