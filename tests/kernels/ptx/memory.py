"""The memories that programs read and write, with who did, so that races are found.

Shared memory: two warps touch a byte, one of them writes another value, and no barrier lies between. Tensors: two
programs of a launch touch a byte, one of them writes another value than by an atomic addition.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .registers import BYTE, LANES, WARP, Fault, Lanes, Mask, Type, Warp

NOBODY, SEVERAL = -1, -2

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]
Truths = NDArray[np.bool_]


def _of_lanes(addresses: Lanes, mask: Mask, size: int, site: str) -> tuple[Places, Places]:
    """Lanes of a mask and their addresses."""
    lanes = LANES if mask is None else np.flatnonzero(mask)
    chosen = addresses[lanes]
    if (chosen % size).any():
        raise Fault(f"{site}: misaligned access of {size} bytes")
    return lanes, chosen


class SharedMemory:
    """What the warps of a program share."""

    def __init__(self, size: int, races: Counter[str]) -> None:
        self._bytes: Bytes = np.full(size, 0xCD, BYTE)
        self._races = races
        self._written = np.zeros(size, np.bool_)
        # Of each byte: the turn between two barriers in which it was touched last, and the warp.
        self._write_turn, self._writer, self._read_turn, self._reader, self._add_turn = np.full((5, size), NOBODY)
        self._turn = 0

    def pass_barrier(self) -> None:
        """What was done before is ordered before what comes."""
        self._turn += 1

    def load(self, warp: Warp, addresses: Lanes, mask: Mask, size: int) -> Bytes:
        """`[32, size]` bytes."""
        lanes, places = self._places(warp, addresses, mask, size)
        self._note(
            warp, "read after another warp's write", self._by_others(self._write_turn, self._writer, places, warp)
        )
        self._note(warp, "read after an atomic", self._add_turn[places] == self._turn)
        self._note(warp, "read of what nobody wrote", ~self._written[places])
        others = self._by_others(self._read_turn, self._reader, places, warp)
        self._read_turn[places], self._reader[places] = self._turn, np.where(others, SEVERAL, warp.number)
        found = np.zeros((WARP, size), BYTE)
        found[lanes] = self._bytes[places]
        return found

    def store(self, warp: Warp, addresses: Lanes, mask: Mask, data: Bytes) -> None:
        """Write `[32, size]` bytes."""
        lanes, places = self._places(warp, addresses, mask, data.shape[1])
        new = self._bytes[places] != data[lanes]
        written = self._by_others(self._write_turn, self._writer, places, warp)
        read = self._by_others(self._read_turn, self._reader, places, warp)
        self._note(warp, "write after another warp's write", new & written)
        self._note(warp, "write after another warp's read", new & read)
        self._write_turn[places], self._writer[places], self._written[places] = self._turn, warp.number, True
        self._bytes[places] = data[lanes]
        self._note(warp, "lanes write different values to one place", self._bytes[places] != data[lanes])

    def add(self, warp: Warp, addresses: Lanes, mask: Mask, values: Lanes) -> Lanes:
        """Add atomically; returns what was there."""
        lanes, places = self._places(warp, addresses, mask, values.itemsize)
        written = self._by_others(self._write_turn, self._writer, places, warp)
        self._note(warp, "atomic after another warp's write", written)
        self._note(warp, "atomic on what nobody wrote", ~self._written[places])
        self._add_turn[places] = self._turn
        return _add(self._bytes, places[:, 0], lanes, values, warp.program.random)

    def _places(self, warp: Warp, addresses: Lanes, mask: Mask, size: int) -> tuple[Places, Places]:
        lanes, chosen = _of_lanes(addresses, mask, size, warp.program.site)
        if chosen.min() < 0 or chosen.max() + size > len(self._bytes):
            raise Fault(f"{warp.program.site}: outside of {len(self._bytes)} bytes of shared memory")
        return lanes, chosen[:, None] + np.arange(size)

    def _by_others(self, turns: Places, warps: Places, places: Places, warp: Warp) -> Truths:
        found: Truths = (turns[places] == self._turn) & (warps[places] != warp.number)
        return found

    def _note(self, warp: Warp, what: str, where: Truths) -> None:
        if where.any():
            self._races[f"shared memory: {what}, no barrier between, {warp.program.site}"] += 1


class Region:
    """The memory of a tensor."""

    def __init__(self, name: str, data: Bytes) -> None:
        self.name = name
        self.bytes = data
        self.start = data.ctypes.data
        self.end = self.start + data.nbytes
        # Of each byte the programs that wrote, read and added last.
        self.writer, self.reader, self.adder = np.full((3, data.nbytes), NOBODY, np.int32)


class Tensors:
    """The memory of the tensors of a launch."""

    def __init__(self, regions: list[Region], races: Counter[str]) -> None:
        self._regions = regions
        self._races = races

    def load(self, warp: Warp, addresses: Lanes, mask: Mask, size: int) -> Bytes:
        """`[32, size]` bytes."""
        found, me = np.zeros((WARP, size), BYTE), warp.program.number
        for region, lanes, places in self._parts(warp, addresses, mask, size):
            self._note(warp, region, "read of what another program wrote", _of_others(region.writer[places], me))
            self._note(warp, region, "read beside another program's atomic", _of_others(region.adder[places], me))
            region.reader[places] = np.where(_of_others(region.reader[places], me), SEVERAL, me)
            found[lanes] = region.bytes[places]
        return found

    def store(self, warp: Warp, addresses: Lanes, mask: Mask, data: Bytes) -> None:
        """Write `[32, size]` bytes."""
        me = warp.program.number
        for region, lanes, places in self._parts(warp, addresses, mask, data.shape[1]):
            new = region.bytes[places] != data[lanes]
            for what, others in (("wrote", region.writer), ("read", region.reader)):
                self._note(warp, region, f"write of what another program {what}", new & _of_others(others[places], me))
            region.writer[places] = me
            region.bytes[places] = data[lanes]
            differ = region.bytes[places] != data[lanes]
            self._note(warp, region, "lanes write different values to one place", differ)

    def add(self, warp: Warp, addresses: Lanes, mask: Mask, values: Lanes) -> Lanes:
        """Add atomically; returns what was there."""
        found = np.zeros_like(values)
        for region, lanes, places in self._parts(warp, addresses, mask, values.itemsize):
            region.adder[places] = warp.program.number
            found[lanes] = _add(region.bytes, places[:, 0], lanes, values, warp.program.random)[lanes]
        return found

    def _parts(self, warp: Warp, addresses: Lanes, mask: Mask, size: int) -> list[tuple[Region, Places, Places]]:
        """For each tensor that is touched: the lanes that do, and which of its bytes."""
        lanes, chosen = _of_lanes(addresses, mask, size, warp.program.site)
        parts, found = [], 0
        for region in self._regions:
            mine = (chosen >= region.start) & (chosen + size <= region.end)
            if mine.any():
                found += int(mine.sum())
                parts.append((region, lanes[mine], (chosen[mine] - region.start)[:, None] + np.arange(size)))
                if found == len(lanes):
                    return parts
        raise Fault(f"{warp.program.site}: address outside of every tensor, in program {warp.program.index}")

    def _note(self, warp: Warp, region: Region, what: str, where: Truths) -> None:
        if where.any():
            self._races[f"{region.name}: {what}, {warp.program.site}"] += 1


def _of_others(programs: NDArray[np.int32], me: int) -> Truths:
    found: Truths = (programs != NOBODY) & (programs != me)
    return found


def _add(memory: Bytes, starts: Places, lanes: Places, values: Lanes, random: Random) -> Lanes:
    """Add one lane after another, in random order."""
    found, type_ = np.zeros_like(values), values.dtype
    for place in random.sample(range(len(lanes)), len(lanes)):
        cell = _cell(memory, int(starts[place]), type_)
        found[lanes[place]] = cell[0]
        cell[0] += values[lanes[place]]
    return found


def _cell(memory: Bytes, start: int, type_: Type) -> NDArray[Any]:
    return memory[start : start + type_.itemsize].view(type_)
