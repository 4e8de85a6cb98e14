"""The registers of a warp, and how the operands of an instruction read and write them.

A value is an array of 32, one for each lane; a mask says for which of them an instruction runs, None for all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .machine import Program

WARP = 32
LANES = np.arange(WARP)

Lanes = NDArray[Any]
Mask = NDArray[np.bool_] | None
Type = np.dtype[Any]

TYPES: dict[str, Type] = {
    **{f"{kind}{8 * size}": np.dtype(f"u{size}") for kind in "bu" for size in (1, 2, 4, 8)},
    **{f"s{8 * size}": np.dtype(f"i{size}") for size in (1, 2, 4, 8)},
    "f32": np.dtype(np.float32),
    "f64": np.dtype(np.float64),
    "pred": np.dtype(np.bool_),
}
BOOL = TYPES["pred"]
BYTE, WORD = TYPES["u8"], TYPES["u32"]


class Fault(Exception):
    """A program does what no correct program does."""


def unsigned(size: int) -> Type:
    """The unsigned integer of `size` bytes."""
    return TYPES[f"u{8 * size}"]


def register_type(name: str) -> Type:
    """What a register holds, by the name that Triton gives it."""
    for prefix, type_ in (("%p", BOOL), ("%rs", TYPES["u16"]), ("%rd", TYPES["u64"]), ("%r", WORD)):
        if name.startswith(prefix):
            return type_
    raise Fault(f"{name}: expected a register")


class Warp:
    """32 threads, each with a place in the code."""

    def __init__(self, program: Program, number: int, threads: int) -> None:
        self.program = program
        self.number = number
        self.registers: dict[str, Lanes] = {}
        self.places = np.zeros(WARP, np.int64)
        self.alive = LANES + WARP * number < threads
        self.waiting = np.zeros(WARP, np.bool_)

    @property
    def ready(self) -> NDArray[np.bool_]:
        """Lanes that can run."""
        return self.alive & ~self.waiting

    def read(self, name: str) -> Lanes:
        """A register; what nobody wrote is random, since nothing may depend on it."""
        value = self.registers.get(name)
        return self._random(register_type(name)) if value is None else value

    def write(self, name: str, mask: Mask, value: Lanes) -> None:
        """Write a register in the lanes of a mask."""
        self.registers[name] = value if mask is None else np.where(mask, value, self.read(name))

    def _random(self, type_: Type) -> Lanes:
        data = self.program.random.randbytes(WARP * type_.itemsize)
        return np.frombuffer(data, BYTE) > 127 if type_ == BOOL else np.frombuffer(data, type_)


Read = Callable[[Warp], Lanes]
Write = Callable[[Warp, Mask, Lanes], None]
Run = Callable[[Warp, Mask], None]


def bits_as(value: Lanes, type_: Type) -> Lanes:
    """The same bits as another type: the lower ones of a wider value, zeros above a narrower one."""
    if value.dtype == type_:
        return value
    if BOOL in (value.dtype, type_):
        return value.astype(type_)
    return value.view(unsigned(value.dtype.itemsize)).astype(unsigned(type_.itemsize)).view(type_)


def reader(operand: str, type_: Type) -> Read:
    """How to read an operand as a type: a register, a special register, a symbol or a number."""
    if operand in _SPECIAL:
        special = _SPECIAL[operand]
        return lambda warp: special(warp).astype(type_)
    if operand.startswith("%"):
        return lambda warp: bits_as(warp.read(operand), type_)
    constant = np.zeros(WARP, type_) if operand == "global_smem" else _constant(operand, type_)
    return lambda warp: constant


def writer(operand: str) -> Write:
    """How to write a register; `_` drops what is written."""
    if operand == "_":
        return lambda warp, mask, value: None
    type_ = register_type(operand)
    return lambda warp, mask, value: warp.write(operand, mask, bits_as(value, type_))


def address(operand: str) -> Read:
    """How to read an address such as `[%rd3+16]`, as int64."""
    found = re.fullmatch(r"\[\s*(%?\w+)\s*(?:\+\s*(-?\d+))?\s*\]", operand)
    if found is None:
        raise Fault(f"{operand}: expected an address")
    base, offset = reader(found[1], TYPES["u64"] if found[1].startswith("%rd") else WORD), int(found[2] or 0)
    return lambda warp: base(warp).astype(np.int64) + offset


def registers_in(operand: str) -> list[str]:
    """Names in `{%r1, %r2}`, or the one name."""
    return [name.strip() for name in operand.strip("{} ").split(",")]


def _constant(text: str, type_: Type) -> Lanes:
    if text[:2] in ("0f", "0F", "0d", "0D"):
        bits = np.dtype("u4" if text[1] in "fF" else "u8").type(int(text[2:], 16))
        return np.full(WARP, bits).view(type_)
    number = int(text.rstrip("U"), 0)
    if type_ == BOOL:
        return np.full(WARP, number != 0)
    return np.full(WARP, number % (1 << 8 * type_.itemsize), unsigned(type_.itemsize)).view(type_)


def _axis(name: str, axis: int) -> Read:
    if name == "ctaid":
        return lambda warp: np.full(WARP, warp.program.index[axis])
    return lambda warp: np.full(WARP, warp.program.launch.grid[axis])


_SPECIAL: dict[str, Read] = {
    "%tid.x": lambda warp: LANES + WARP * warp.number,
    **{f"%{name}.{'xyz'[axis]}": _axis(name, axis) for name in ("ctaid", "nctaid") for axis in range(3)},
}
