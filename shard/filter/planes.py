"""The kinds of planes that a field can have, and how its values are written into them.

Letters: n values or items, K blocks of a hashed group, W words of an item's bits. `bits` is `[n, W]` uint64: bit
`r % 64` of word `r // 64` is plane r.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

MOST_ROWS = 1 << 24
"""Most planes of a catalog: 2 MiB of bits an item, far beyond what is ever chosen."""
MAX_BLOCKS = 8
"""Most planes that a value sets: of 1 to 10 values an item and a rate of 1 %, the least M + K has 3 to 6 of them.
More would pay for lower rates only, and each is one that queries read."""
FLOAT_BITS = 24
"""A float32 has so many significant bits, so that few published values share a code with a bound and must be
verified. More bits are planes that every range reads."""


@dataclass(frozen=True, slots=True)
class HashedPlanes:
    """A Bloom group of M = blocks · size planes: a value sets one plane in each of its K = blocks blocks.

    Attributes:
        first: the first of the M planes.
        blocks: K, the planes that one value sets.
        size: planes in a block.
        salt: makes the places of a value differ from field to field.
        fpr: expected share of items without a value whose K planes are all set.
    """

    kind: ClassVar[str] = "hashed"

    first: int
    blocks: int
    size: int
    salt: int
    fpr: float

    @property
    def count(self) -> int:
        """M."""
        return self.blocks * self.size

    def places(self, values: Ints) -> Ints:
        """Find the planes of values: `[n]` int64 to `[n, K]` int64, column k within block k."""
        blocks = np.arange(self.blocks, dtype=np.uint64)
        step = np.uint64(0x9E3779B97F4A7C15)
        seeds = values.astype(np.uint64)[:, None] ^ np.uint64(self.salt)
        within = _mix(seeds + (blocks + np.uint64(1)) * step) % np.uint64(self.size)
        return (within + blocks * np.uint64(self.size)).astype(np.int64) + self.first

    def write(self, bits: Words, items: Ints, values: Ints) -> None:
        """Set the planes of `values[i]` for item `items[i]`."""
        places = self.places(values)
        set_planes(bits, np.repeat(items, self.blocks), places.reshape(-1))


def choose_hashed(first: int, salt: int, terms: Ints, target_fpr: float) -> HashedPlanes:
    """Choose the cheapest group that reaches a false-positive rate.

    An item of t values has each plane of a block set with probability 1 - (1 - 1/size)^t, and shows a value that
    it does not have with the K-th power of that; the rate is the mean over items.

    Args:
        first: the group's first plane.
        salt: its salt.
        terms: `[n]` number of values of each item, those without any left out.
        target_fpr: the rate to reach, above 0.

    Returns:
        The group of least M + K: an item stores M bits and a query reads K planes.
    """
    counts = np.bincount(terms) if len(terms) else np.array([0, 1])
    weights, exponents = counts / counts.sum(), np.arange(len(counts))

    def rate(blocks: int, size: int) -> float:
        return float(weights @ (1 - (1 - 1 / size) ** exponents) ** blocks)

    best: HashedPlanes | None = None
    for blocks in range(1, MAX_BLOCKS + 1):
        low, high = 0, 1
        while rate(blocks, high) > target_fpr:
            low, high = high, high * 2
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if rate(blocks, middle) > target_fpr else (low, middle)
        group = HashedPlanes(first, blocks, high, salt, rate(blocks, high))
        if best is None or group.count + blocks < best.count + best.blocks:
            best = group
    assert best is not None
    return best


@dataclass(frozen=True, slots=True)
class ExactPlanes:
    """One plane a value of the dictionary; values outside it are hashed into a small group of their own.

    Attributes:
        first: the plane of the first value.
        values: the dictionary, ascending; value i has plane `first + i`.
        other: the group of all other values.
    """

    kind: ClassVar[str] = "exact"

    first: int
    values: tuple[int, ...]
    other: HashedPlanes

    @property
    def count(self) -> int:
        """Number of planes, those of `other` included."""
        return len(self.values) + self.other.count

    def write(self, bits: Words, items: Ints, values: Ints) -> None:
        """Set the planes of `values[i]` for item `items[i]`."""
        dictionary = np.array(self.values, dtype=np.int64)
        index = np.searchsorted(dictionary, values)
        known = np.zeros(len(values), dtype=bool)
        inside = index < len(dictionary)
        known[inside] = dictionary[index[inside]] == values[inside]
        set_planes(bits, items[known], self.first + index[known])
        self.other.write(bits, items[~known], values[~known])


@dataclass(frozen=True, slots=True)
class SlicedPlanes:
    """The bits of `code = (number >> shift) - base`, one plane a bit, for numbers whose code is in 0 … top.

    A float's number is an order-preserving int64, see `float_numbers`. A number whose code lies outside sets the
    `below` or the `above` plane and no slice; a missing value sets nothing.

    Attributes:
        first: the `below` plane; then come `above` and the slices, least significant first.
        base: offset of the codes.
        shift: low bits of the number that the code leaves out.
        top: largest code.
        floating: whether the field is float.
    """

    kind: ClassVar[str] = "sliced"

    first: int
    base: int
    shift: int
    top: int
    floating: bool

    @property
    def width(self) -> int:
        """Number of slices."""
        return self.top.bit_length()

    @property
    def count(self) -> int:
        """Number of planes."""
        return 2 + self.width

    def write(self, bits: Words, items: Ints, numbers: Ints) -> None:
        """Set the planes of `numbers[i]` for item `items[i]`."""
        coarse = numbers >> self.shift
        below, above = coarse < self.base, coarse > self.base + self.top
        set_planes(bits, items[below], np.full(below.sum(), self.first))
        set_planes(bits, items[above], np.full(above.sum(), self.first + 1))
        if not self.width:  # and maybe no word where slices would begin
            return
        inside = ~(below | above)
        # May exceed int64, but the difference is right modulo 2^64 and is read as unsigned.
        codes = coarse[inside].view(np.uint64) - np.array([self.base]).view(np.uint64)
        word, offset = divmod(self.first + 2, 64)
        bits[items[inside], word] |= codes << np.uint64(offset)
        if offset + self.width > 64:
            bits[items[inside], word + 1] |= codes >> np.uint64(64 - offset)


def choose_sliced(first: int, numbers: Ints, floating: bool) -> SlicedPlanes:
    """Choose the codes for published numbers: all bits of an int, at most `FLOAT_BITS` of a float."""
    low, high = (int(numbers.min()), int(numbers.max())) if len(numbers) else (0, 0)
    shift = 0
    while floating and (high >> shift) - (low >> shift) >= 1 << FLOAT_BITS:
        shift += 1
    return SlicedPlanes(first, low >> shift, shift, (high >> shift) - (low >> shift), floating)


def float_numbers(values: NDArray[np.float64]) -> Ints:
    """Map float64 to int64 so that order is kept; -0.0 must have been made 0.0."""
    raw = values.view(np.int64)
    return raw ^ (raw >> 63 & np.int64(0x7FFF_FFFF_FFFF_FFFF))


@dataclass(frozen=True, slots=True)
class BooleanPlanes:
    """One plane, set where the value is true."""

    kind: ClassVar[str] = "boolean"
    count: ClassVar[int] = 1

    first: int

    def write(self, bits: Words, items: Ints, values: Ints) -> None:
        """Set the plane for items `items[i]` whose value is not 0."""
        set_planes(bits, items[values != 0], np.full(np.count_nonzero(values), self.first))


Planes = HashedPlanes | ExactPlanes | SlicedPlanes | BooleanPlanes


def set_planes(bits: Words, items: Ints, planes: Ints) -> None:
    """Set plane `planes[i]` of item `items[i]`; an item may occur more than once."""
    places = items * bits.shape[1] + (planes >> 6)
    np.bitwise_or.at(bits.reshape(-1), places, np.uint64(1) << (planes & 63).astype(np.uint64))


def _mix(numbers: Words) -> Words:
    """The finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014); part of the snapshot format."""
    numbers = (numbers ^ numbers >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ numbers >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return numbers ^ numbers >> np.uint64(31)
