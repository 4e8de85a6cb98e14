"""Filters that need their stack, as programs; planes are those of `tests.kernels.cases`."""

from __future__ import annotations

from random import Random

from silverray.kernels.programs import MAX_STACK, Opcode

from ..cases import PLANES

Filter = list[tuple[Opcode, int]]

LOAD, AND, OR, ANDNOT = Opcode.LOAD, Opcode.AND, Opcode.OR, Opcode.ANDNOT
STACK_AND, STACK_OR, STACK_NOT = (Opcode.STACK_AND, 0), (Opcode.STACK_OR, 0), (Opcode.STACK_NOT, 0)

BOTH_OF_TWO: Filter = [(LOAD, 1), (OR, 2), (LOAD, 3), (OR, 4), STACK_AND]
"""`(a or b) and (c or d)`"""
ONE_OF_TWO: Filter = [(LOAD, 1), (AND, 2), (LOAD, 3), (AND, 4), STACK_OR]
"""`(a and b) or (c and d)`"""
NEITHER: Filter = [(LOAD, 1), (OR, 2), (LOAD, 3), (ANDNOT, 4), STACK_NOT, STACK_AND, STACK_NOT, (AND, 0)]
"""`not ((a or b) and not (c and not d))`"""
BETWEEN: Filter = [
    (LOAD, 1), (OR, 2), (AND, 3), (OR, 4),
    (LOAD, 1), (AND, 2), (OR, 3), (AND, 5), STACK_NOT, STACK_AND, (AND, 0),
]  # fmt: skip
"""`low <= x and not x >= high`, as numbers in binary planes are compared."""


def full_stack(operation: Opcode) -> Filter:
    """Push as many planes as the stack holds, and join them all."""
    return [(LOAD, plane) for plane in range(1, MAX_STACK + 1)] + [(operation, 0)] * (MAX_STACK - 1)


def right_nested() -> Filter:
    """`a or not (b and not (c or not (...)))`, as deep as the stack."""
    found = [(LOAD, plane) for plane in range(1, MAX_STACK + 1)]
    for turn in range(MAX_STACK - 1):
        found += [STACK_NOT, STACK_AND if turn % 2 else STACK_OR]
    return found


def random_filter(seed: int) -> Filter:
    """Any operations, with up to a full stack."""
    random = Random(seed)
    found, depth = [(LOAD, random.randrange(PLANES))], 1
    for _ in range(random.randrange(10, 25)):
        choices = [AND, OR, ANDNOT, Opcode.STACK_NOT, Opcode.NOP]
        choices += [LOAD] * 4 if depth < MAX_STACK else []
        choices += [Opcode.STACK_AND, Opcode.STACK_OR] * 2 if depth > 1 else []
        found.append((random.choice(choices), random.randrange(PLANES)))
        depth += {LOAD: 1, Opcode.STACK_AND: -1, Opcode.STACK_OR: -1}.get(found[-1][0], 0)
    return found + [random.choice([STACK_AND, STACK_OR]) for _ in range(depth - 1)]


STACKED: list[Filter] = [
    BOTH_OF_TWO, ONE_OF_TWO, NEITHER, BETWEEN, full_stack(Opcode.STACK_AND), full_stack(Opcode.STACK_OR),
    right_nested(), *map(random_filter, range(5)),
]  # fmt: skip
