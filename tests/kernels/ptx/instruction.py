"""The text of an instruction, taken apart."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from .registers import TYPES, Run, Type


class Parts(NamedTuple):
    """A name such as `ld.global.v4.b32`, split at its points and colons, and operands."""

    name: tuple[str, ...]
    operands: tuple[str, ...]

    @classmethod
    def of(cls, name: str, operands: str) -> Parts:
        """Split both; the registers in braces are one operand."""
        return cls(tuple(re.split(r"\.|::", name)), tuple(re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+", operands)))

    @property
    def type(self) -> Type:
        """What it works on, the last part of its name."""
        return TYPES[self.name[-1]]


Decoder = Callable[[Parts], Run]
