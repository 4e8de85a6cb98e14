"""Compiled filters, kept by their texts within a size."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from silverray.shard.filter.compiler import CompiledFilter
from silverray.shard.filter.deadline import NEVER, Deadline
from silverray.shard.filter.expression import And, Expression, Not, OneOf, Or, PlaneTest

CACHE_BYTES = 64 << 20
"""Bytes of the filters that are kept: tens of thousands of ordinary ones, and at least 256 of the longest. What
texts a client sends must not decide how much memory a router takes."""
_NODE_BYTES = 160
"""An object and its tuple, about 100 in CPython 3.11; rather too much, as the sum bounds memory."""
_VALUE_BYTES = 40
"""A Python integer and its place in a tuple."""
_ENTRY_BYTES = 1_000
"""The rest of a compiled filter and of its place here."""


class FilterCache:
    """Compiles filters, and keeps those used last; may be used by several threads.

    Args:
        compile: compiles a text until a deadline.
        limit: bytes that all kept filters may take, as estimated.

    Attributes:
        size: bytes that they take, as estimated.
    """

    def __init__(self, compile: Callable[[str | None, Deadline], CompiledFilter], limit: int = CACHE_BYTES) -> None:
        self._compile = compile
        self._limit = limit
        self._kept: OrderedDict[str | None, tuple[CompiledFilter, int]] = OrderedDict()
        self._lock = threading.Lock()
        self.size = 0

    def find(self, text: str | None) -> CompiledFilter | None:
        """The compiled form of a text; None where it is not kept."""
        with self._lock:
            entry = self._kept.get(text)
            if entry is None:
                return None
            self._kept.move_to_end(text)
            return entry[0]

    def compile(self, text: str | None, deadline: Deadline = NEVER) -> CompiledFilter:
        """Find the compiled form of a text, or make it.

        Raises:
            FilterError: the text is wrong.
            DeadlineExceeded: it is not kept, and the deadline came before it was made.
        """
        found = self.find(text)
        if found is not None:
            return found
        compiled = self._compile(text, deadline)
        size = estimated_bytes(compiled)
        with self._lock:
            if text in self._kept:  # another thread was faster; equal filters should be one object
                return self._kept[text][0]
            self._kept[text] = compiled, size
            self.size += size
            while self.size > self._limit:
                _, (_, freed) = self._kept.popitem(last=False)
                self.size -= freed
        return compiled


def estimated_bytes(compiled: CompiledFilter) -> int:
    """About how much memory a compiled filter takes, from above."""
    checks = {id(tree): tree for tree in (compiled.expression, compiled.exact.check, compiled.bloom.check)}
    text = 4 * len(compiled.text or "")  # a text with one character beyond Latin takes as much
    return _ENTRY_BYTES + text + compiled.exact.program.nbytes + sum(map(_tree_bytes, checks.values()))


def _tree_bytes(expression: Expression | None) -> int:
    match expression:
        case None:
            return 0
        case OneOf(_, values):
            return _NODE_BYTES + _VALUE_BYTES * len(values)
        case PlaneTest(groups):
            return _NODE_BYTES + sum(_NODE_BYTES + _VALUE_BYTES * len(group) for group in groups)
        case Not(operand):
            return _NODE_BYTES + _tree_bytes(operand)
        case And(operands) | Or(operands):
            return _NODE_BYTES + sum(map(_tree_bytes, operands))
    return _NODE_BYTES
