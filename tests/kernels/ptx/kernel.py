"""A kernel in PTX, the assembly language that Triton compiles to, made ready to run."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from .accesses import ACCESSES
from .arithmetic import ARITHMETIC
from .collectives import COLLECTIVES
from .instruction import Parts
from .registers import WORD, Fault, Mask, Read, Run, Warp, reader

DECODERS = {**ARITHMETIC, **ACCESSES, **COLLECTIVES}


class Branch(Enum):
    """What an instruction does other than to go on."""

    JUMP = "bra"
    RETURN = "ret"
    BARRIER = "bar"


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        text: as it is written.
        line: of the kernel's source.
        guard: the predicate for whose lanes it runs, and whether for the others instead.
        run: what it does with a warp; None where it branches.
        branch: how it does.
        labels: where it can jump to.
        choice: which of several labels each lane takes.
    """

    text: str
    line: int
    guard: tuple[str, bool] | None = None
    run: Run | None = None
    branch: Branch | None = None
    labels: tuple[str, ...] = ()
    choice: Read | None = None

    def lanes(self, warp: Warp, mask: Mask) -> Mask:
        """For which lanes of a mask it runs."""
        if self.guard is None:
            return mask
        predicate = warp.read(self.guard[0]) != self.guard[1]
        lanes = predicate if mask is None else predicate & mask
        return None if lanes.all() else lanes


class Kernel:
    """The entry of a PTX module.

    Attributes:
        name: of the entry.
        parameters: their names, in order.
        threads: of a program.
        code: its instructions.
        targets: places in the code that a branch leads to.
    """

    def __init__(self, ptx: str) -> None:
        head, body = ptx.split(".entry", 1)[1].split("{", 1)
        self.name = head.strip().partition("(")[0]
        self.parameters = re.findall(r"\.param \.\w+[^,\n]*?(\w+_param_\d+)", head)
        self.threads = int(re.search(r"\.reqntid (\d+)", head)[1])  # type: ignore[index]
        self.code: list[Instruction] = []
        self._labels: dict[str, int] = {}
        self._tables: dict[str, tuple[str, ...]] = {}
        self._read(re.sub(r"//.*", "", body).partition(".section")[0])
        self.targets = frozenset(self._labels[label] for instruction in self.code for label in instruction.labels)

    def target(self, instruction: Instruction, warp: Warp, lane: int) -> int:
        """Where a lane jumps to."""
        choice = 0 if instruction.choice is None else int(instruction.choice(warp)[lane])
        return self._labels[instruction.labels[choice]]

    def _read(self, body: str) -> None:
        table = r"(\$?\w+):\s*\.branchtargets\s*([^;]*);"
        for name, labels in re.findall(table, body):
            self._tables[name] = tuple(label.strip() for label in labels.split(","))
        line = 0
        for text in re.sub(table, "", body).splitlines():
            statement = text.strip(" \t{}")
            if location := re.match(r"\.loc\s+\d+\s+(\d+)", statement):
                line = int(location[1])
            while label := re.match(r"(\$\w+):\s*", statement):
                self._labels[label[1]] = len(self.code)
                statement = statement[label.end() :]
            if not statement.startswith("."):
                self.code += [self._decode(part.strip(), line) for part in statement.split(";") if part.strip()]

    def _decode(self, text: str, line: int) -> Instruction:
        found = re.fullmatch(r"(?:@(!?)(%p\d+)\s+)?(\S+)\s*(.*)", text)
        assert found is not None
        guard, parts = (found[2], found[1] == "!") if found[2] else None, Parts.of(found[3], found[4])
        match parts.name[0]:
            case "bra":
                return Instruction(text, line, guard, branch=Branch.JUMP, labels=tuple(parts.operands))
            case "brx":
                choice, labels = reader(parts.operands[0], WORD), self._tables[parts.operands[1]]
                return Instruction(text, line, guard, branch=Branch.JUMP, labels=labels, choice=choice)
            case "ret":
                return Instruction(text, line, guard, branch=Branch.RETURN)
            case "bar":
                return Instruction(text, line, guard, branch=Branch.BARRIER)
            case kind if kind in DECODERS:
                return Instruction(text, line, guard, DECODERS[kind](parts))
        raise Fault(f"{text}: unknown instruction")
