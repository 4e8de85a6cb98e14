"""A number that a module names says why it is that number, and what would be if it were another."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("kernels", "shard", "router", "cluster", "benchmarks")
LEAST_WORDS = 4
"""Fewer give no reason: they repeat the name."""


def is_number(value: ast.expr) -> bool:
    """Whether an expression is of numbers alone: a number, a sum or tuple of them, or of constants among them."""
    match value:
        case ast.Constant(int() | float()):
            return not isinstance(value.value, bool)
        case ast.Tuple(parts) | ast.List(parts):
            return bool(parts) and all(map(is_number, parts))
        case ast.UnaryOp(operand=operand):
            return is_number(operand)
        case ast.BinOp(left, _, right):
            return is_number(left) and is_number(right)
        case ast.Name(name):
            return name.isupper()
    return False


def constants(source: str) -> Iterator[tuple[list[str], str]]:
    """The names of each statement that gives numbers to constants, and the reason beside it."""
    lines, body = source.splitlines(), ast.parse(source).body
    for node, below in zip(body, [*body[1:], None], strict=True):
        match node:
            case ast.Assign(targets, value):
                pass
            case ast.AnnAssign(target, _, ast.expr() as value):
                targets = [target]
            case _:
                continue
        named = (part for target in targets for part in ast.walk(target) if isinstance(part, ast.Name))
        names = [part.id for part in named if part.id.isupper()]
        literal = any(isinstance(part, ast.Constant) for part in ast.walk(value))
        if not (names and literal and is_number(value)):
            continue
        match below:
            case ast.Expr(ast.Constant(str(text))):
                yield names, text
            case _:
                own = lines[node.lineno - 1 : node.end_lineno]
                above = lines[node.lineno - 2]
                comments = [line.partition("#")[2] for line in own] + [above] * above.startswith("#")
                yield names, " ".join(comments)


def without_reason() -> set[str]:
    found = set()
    for file in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for names, reason in constants(file.read_text()):
            if len(re.findall(r"\w+", reason)) < LEAST_WORDS:
                found |= {f"{module}.{name}" for name in names}
    return found


def test_every_number_has_its_reason() -> None:
    found = without_reason()
    assert not found, f"expected a line below each that says why it is this number: {sorted(found)}"


@pytest.mark.parametrize(
    ("source", "names", "words"),
    [
        ("LIMIT = 5\n", ["LIMIT"], 0),
        ("LIMIT = 5\nOTHER = 6\n'''Of the other alone.'''\n", ["LIMIT"], 0),
        ("LIMIT = 5\n'''More would not fit.'''\n", ["LIMIT"], 4),
        ("# More would not fit.\nLIMIT = 5\n", ["LIMIT"], 4),
        ("_A, _B = 1 << 20, -(2**3)  # as the disk does\n", ["_A", "_B"], 4),
        ("LIMIT: int = 5\n", ["LIMIT"], 0),
        ("TWICE = 2 * LIMIT\n", ["TWICE"], 0),
    ],
)
def test_a_reason_stands_below_or_above_or_beside(source: str, names: list[str], words: int) -> None:
    found, reason = next(constants(source))
    assert (found, len(re.findall(r"\w+", reason))) == (names, words)


@pytest.mark.parametrize(
    "source", ["ON = True\n", "SAME = OTHER\n", "limit = 5\n", "NAMES = ('a', 'b')\n", "N = f(5)\n"]
)
def test_what_is_no_number_needs_no_reason(source: str) -> None:
    assert not list(constants(source))
