"""Instructions that read and write memory."""

from __future__ import annotations

import numpy as np

from .arithmetic import extend
from .instruction import Decoder, Parts
from .memory import Bytes, SharedMemory, Tensors
from .registers import (
    BYTE,
    WARP,
    Fault,
    Mask,
    Run,
    Warp,
    address,
    reader,
    register_type,
    registers_in,
    unsigned,
    writer,
)


def memory_of(warp: Warp, parts: Parts) -> SharedMemory | Tensors:
    """Which memory an instruction is for."""
    if "global" in parts.name:
        return warp.program.launch.tensors
    if "shared" in parts.name:
        return warp.program.shared
    raise Fault(f"{'.'.join(parts.name)}: neither of tensors nor of shared memory")


def _load(parts: Parts) -> Run:
    type_, names = parts.type, registers_in(parts.operands[0])
    writes = [(writer(name), register_type(name)) for name in names]
    if "param" in parts.name:
        return _load_parameter(parts)
    at, size = address(parts.operands[1]), type_.itemsize

    def load(warp: Warp, mask: Mask) -> None:
        data = memory_of(warp, parts).load(warp, at(warp), mask, size * len(names))
        for place, (write, register) in enumerate(writes):
            value = data[:, place * size : (place + 1) * size].copy().view(type_)[:, 0]
            write(warp, mask, extend(value, register))

    return load


def _load_parameter(parts: Parts) -> Run:
    (name, source), type_ = parts.operands, parts.type
    write, register, parameter = writer(name), register_type(name), source.strip("[] ")

    def load(warp: Warp, mask: Mask) -> None:
        number = warp.program.launch.arguments[parameter] % (1 << 8 * type_.itemsize)
        value = np.full(WARP, number, unsigned(type_.itemsize)).view(type_)
        write(warp, mask, extend(value, register))

    return load


def _store(parts: Parts) -> Run:
    at, size = address(parts.operands[0]), parts.type.itemsize
    reads = [reader(name, unsigned(size)) for name in registers_in(parts.operands[1])]

    def store(warp: Warp, mask: Mask) -> None:
        data: Bytes = np.concatenate([read(warp).copy().view(BYTE).reshape(WARP, size) for read in reads], 1)
        memory_of(warp, parts).store(warp, at(warp), mask, data)

    return store


def _add(parts: Parts) -> Run:
    if "add" not in parts.name:
        raise Fault(f"{'.'.join(parts.name)}: expected an atomic addition")
    write, at, read = writer(parts.operands[0]), address(parts.operands[1]), reader(parts.operands[2], parts.type)
    return lambda warp, mask: write(warp, mask, memory_of(warp, parts).add(warp, at(warp), mask, read(warp)))


ACCESSES: dict[str, Decoder] = {"ld": _load, "st": _store, "atom": _add}
"""By the first part of an instruction's name."""
