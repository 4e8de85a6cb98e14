"""Instructions that the lanes of a warp run together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .instruction import Decoder, Parts
from .registers import (
    BOOL,
    BYTE,
    LANES,
    TYPES,
    WARP,
    WORD,
    Fault,
    Lanes,
    Mask,
    Run,
    Warp,
    address,
    reader,
    registers_in,
    writer,
)

ROW, COLUMN = LANES // 4, LANES % 4
"""Where in a tile of 8 rows of 4 words a lane's word is."""

_REDUCTIONS: dict[str, Callable[[Lanes], int]] = {
    "add": lambda x: int(x.astype(np.int64).sum()),
    "max": lambda x: int(x.max()),
    "min": lambda x: int(x.min()),
    "or": lambda x: int(np.bitwise_or.reduce(x)),
    "and": lambda x: int(np.bitwise_and.reduce(x)),
}


def _together(parts: Parts, run: Callable[[Warp], None]) -> Run:
    def checked(warp: Warp, mask: Mask) -> None:
        if mask is not None:
            raise Fault(f"{warp.program.site}: {'.'.join(parts.name)} without all lanes")
        run(warp)

    return checked


def _shuffle(parts: Parts) -> Run:
    write, value = writer(parts.operands[0].partition("|")[0]), reader(parts.operands[1], WORD)
    by, last = reader(parts.operands[2], WORD), reader(parts.operands[3], WORD)

    def shuffle(warp: Warp) -> None:
        distance, found = int(by(warp)[0]), value(warp)
        source = {
            "bfly": LANES ^ distance,
            "up": LANES - distance,
            "down": LANES + distance,
            "idx": np.full(WARP, distance),
        }[parts.name[2]]
        inside = source >= 0 if parts.name[2] == "up" else source <= int(last(warp)[0])
        write(warp, None, np.where(inside, found[np.clip(source, 0, WARP - 1)], found))

    return _together(parts, shuffle)


def _vote(parts: Parts) -> Run:
    write, read = writer(parts.operands[0]), reader(parts.operands[1], BOOL)
    return _together(
        parts, lambda warp: write(warp, None, _all_lanes(int((read(warp).astype(np.int64) << LANES).sum())))
    )


def _reduce(parts: Parts) -> Run:
    write, read, function = writer(parts.operands[0]), reader(parts.operands[1], parts.type), _REDUCTIONS[parts.name[2]]
    return _together(parts, lambda warp: write(warp, None, _all_lanes(function(read(warp)))))


def _all_lanes(number: int) -> Lanes:
    return np.full(WARP, number % (1 << 32), WORD)


def _matrix(parts: Parts) -> Run:
    """Tiles of 8 rows of 16 bytes, between shared memory and one word of each lane."""
    loads = parts.name[0] == "ldmatrix"
    names, at = registers_in(parts.operands[0 if loads else 1]), address(parts.operands[1 if loads else 0])
    halves = "trans" in parts.name
    type_ = TYPES["u16"] if halves else WORD

    def run(warp: Warp) -> None:
        starts, shared = at(warp), warp.program.shared
        for tile, name in enumerate(names):
            rows = starts[8 * tile : 8 * tile + 8]
            if (rows % 16).any():
                raise Fault(f"{warp.program.site}: {parts.name[0]} of rows that are not aligned")
            # Transposed, a lane's word is two numbers of 16 bits, one below the other.
            places = [rows[2 * COLUMN + half] + 2 * ROW for half in (0, 1)] if halves else [rows[ROW] + 4 * COLUMN]
            if loads:
                read = [shared.load(warp, place, None, type_.itemsize) for place in places]
                warp.write(name, None, np.concatenate(read, 1).view(WORD)[:, 0])
            else:
                data = warp.read(name).copy().view(BYTE).reshape(WARP, -1, type_.itemsize)
                for place, part in zip(places, np.moveaxis(data, 1, 0), strict=True):
                    shared.store(warp, place, None, part)

    return _together(parts, run)


def _multiply(parts: Parts) -> Run:
    """`[16, 32]` by `[32, 8]` int8, added to int32; which lane holds what is in the PTX manual."""
    name = ".".join(parts.name)
    if name != "mma.sync.aligned.m16n8k32.row.col.satfinite.s32.s8.s8.s32":
        raise Fault(f"{name}: expected the product of int8")
    writes = [writer(register) for register in registers_in(parts.operands[0])]
    left, right, added = (
        [reader(register, WORD) for register in registers_in(operand)] for operand in parts.operands[1:]
    )
    corners = [(ROW + 8 * half, 2 * COLUMN + side) for half in (0, 1) for side in (0, 1)]

    def multiply(warp: Warp) -> None:
        a, b, c = np.empty((16, 32), np.int32), np.empty((32, 8), np.int32), np.empty((16, 8), np.int64)
        bytes_ = np.arange(4)
        for part, read in enumerate(left):
            columns = 4 * COLUMN[:, None] + bytes_ + 16 * (part // 2)
            a[(ROW + 8 * (part % 2))[:, None], columns] = _signed_bytes(read(warp))
        for part, read in enumerate(right):
            b[4 * COLUMN[:, None] + bytes_ + 16 * part, ROW[:, None]] = _signed_bytes(read(warp))
        for corner, read in zip(corners, added, strict=True):
            c[corner] = read(warp).view(np.int32)
        sums = np.clip(c + a @ b, -(2**31), 2**31 - 1).astype(np.int32)
        for write, corner in zip(writes, corners, strict=True):
            write(warp, None, sums[corner])

    return _together(parts, multiply)


def _signed_bytes(value: Lanes) -> Lanes:
    return value.copy().view(np.int8).reshape(WARP, 4)


COLLECTIVES: dict[str, Decoder] = {
    "shfl": _shuffle, "vote": _vote, "redux": _reduce, "ldmatrix": _matrix, "stmatrix": _matrix, "mma": _multiply,
}  # fmt: skip
"""By the first part of an instruction's name."""
