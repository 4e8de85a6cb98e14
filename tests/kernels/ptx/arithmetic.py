"""Instructions that compute in each lane for itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    Type,
    Warp,
    bits_as,
    reader,
    register_type,
    registers_in,
    unsigned,
    writer,
)

Function = Callable[..., Any]

_NUMBERS: dict[str, Function] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "neg": np.negative, "min": np.minimum, "max": np.maximum,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor, "not": np.invert,
    "mad": lambda x, y, z: x * y + z,
}  # fmt: skip
_TRUTHS: dict[str, Function] = {
    "and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor, "not": np.logical_not,
}  # fmt: skip
_COMPARISONS: dict[str, Function] = {
    "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "equ": np.equal,
}  # fmt: skip


def extend(value: Lanes, type_: Type) -> Lanes:
    """Integers in the width of a register: a negative one keeps its sign."""
    wide = np.dtype(f"{'i' if value.dtype.kind == 'i' else 'u'}{type_.itemsize}")
    return value.view(type_) if value.itemsize == type_.itemsize else value.astype(wide).view(type_)


def _apply(parts: Parts, function: Function, types: list[Type]) -> Run:
    """`function` of the operands, read as `types`, goes to the first operand."""
    write = writer(parts.operands[0])
    reads = [reader(operand, type_) for operand, type_ in zip(parts.operands[1:], types, strict=True)]
    return lambda warp, mask: write(warp, mask, function(*(read(warp) for read in reads)))


def _number(parts: Parts) -> Run:
    kind, type_ = parts.name[0], parts.type
    if type_ == BOOL:
        return _apply(parts, _TRUTHS[kind], [BOOL] * (len(parts.operands) - 1))
    if "wide" in parts.name:
        wide = np.dtype(f"{type_.kind}{2 * type_.itemsize}")
        product: Function = lambda x, y, z=0: x.astype(wide) * y.astype(wide) + z  # noqa: E731
        return _apply(parts, product, [type_, type_, wide][: len(parts.operands) - 1])
    if "hi" in parts.name:
        raise Fault(f"{'.'.join(parts.name)}: expected the lower half of a product")
    return _apply(parts, _NUMBERS[kind], [type_] * (len(parts.operands) - 1))


def _shift(parts: Parts) -> Run:
    type_, left = parts.type, parts.name[0] == "shl"
    bits = 8 * type_.itemsize

    def shift(value: Lanes, by: Lanes) -> Any:
        # Beyond all bits PTX leaves the sign, or nothing; NumPy leaves it open.
        inside = np.minimum(by, bits - 1).astype(type_)
        if type_.kind == "i" and not left:
            return value >> inside
        return np.where(by < bits, value << inside if left else value >> inside, type_.type(0))

    return _apply(parts, shift, [type_, WORD])


def _compare(parts: Parts) -> Run:
    return _apply(parts, _COMPARISONS[parts.name[1]], [parts.type] * 2)


def _select(parts: Parts) -> Run:
    type_ = register_type(parts.operands[0])
    return _apply(parts, lambda x, y, chosen: np.where(chosen, x, y), [type_, type_, BOOL])


def _convert(parts: Parts) -> Run:
    target, source = parts.name[-2:]
    if source == "bf16":
        return _apply(parts, lambda x: x.astype(WORD) << WORD.type(16), [TYPES["u16"]])
    type_, register = TYPES[source], register_type(parts.operands[0])
    held = register_type(parts.operands[1])
    return _apply(parts, lambda x: extend(bits_as(x, type_).astype(TYPES[target]), register), [held])


def _move(parts: Parts) -> Run:
    """Between registers, or one and the parts of it."""
    to, source = parts.operands
    if to.startswith("{"):
        writes = [writer(name) for name in registers_in(to)]
        part, read = unsigned(parts.type.itemsize // len(writes)), reader(source, unsigned(parts.type.itemsize))

        def unpack(warp: Warp, mask: Mask) -> None:
            values = read(warp).copy().view(part).reshape(WARP, -1)
            for place, write in enumerate(writes):
                write(warp, mask, values[:, place].copy())

        return unpack
    if source.startswith("{"):
        names = registers_in(source)
        part, type_, write = unsigned(parts.type.itemsize // len(names)), parts.type, writer(to)
        reads = [reader(name, part) for name in names]

        def pack(warp: Warp, mask: Mask) -> None:
            write(warp, mask, np.stack([read(warp) for read in reads], 1).view(unsigned(type_.itemsize))[:, 0])

        return pack
    return _apply(parts, lambda x: x, [register_type(to)])


def _count_bits(parts: Parts) -> Run:
    return _apply(parts, lambda x: np.bitwise_count(x).astype(WORD), [parts.type])


def _extract_bits(parts: Parts) -> Run:
    type_, start, length = parts.type, int(parts.operands[2], 0), int(parts.operands[3], 0)
    bits, plain = 8 * type_.itemsize, unsigned(type_.itemsize)

    def extract(value: Lanes) -> Any:
        above = value.view(plain) << plain.type(bits - start - length)
        return above.view(type_) >> type_.type(bits - length)

    return _apply(Parts(parts.name, parts.operands[:2]), extract, [type_])


def _permute_bytes(parts: Parts) -> Run:
    def permute(low: Lanes, high: Lanes, choice: Lanes) -> Lanes:
        given = np.stack([low, high], 1).view(BYTE)
        found = np.empty((WARP, 4), BYTE)
        for place in range(4):
            chosen = choice >> WORD.type(4 * place)
            byte = given[LANES, chosen & 7]
            found[:, place] = np.where(chosen & 8, np.where(byte & 0x80, 255, 0), byte)
        return found.view(WORD)[:, 0]

    return _apply(parts, permute, [WORD] * 3)


ARITHMETIC: dict[str, Decoder] = {
    **dict.fromkeys(_NUMBERS, _number),
    **dict.fromkeys(("shl", "shr"), _shift),
    "setp": _compare,
    "selp": _select,
    "cvt": _convert,
    "mov": _move,
    "popc": _count_bits,
    "bfe": _extract_bits,
    "prmt": _permute_bytes,
}
"""By the first part of an instruction's name."""
