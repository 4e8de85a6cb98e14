"""What a compiled formula can do: each operation on tensors, and which numbers can come out.

Numbers are float32. Arguments are tensors that broadcast against each other, `[B, K]` or `[B, 1]`, or Python scalars.
Bounds hold for any order of rounding, fused multiply-adds included: they are widened by more than an operation can err.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from silverray.kernels.quotients import divisor

LARGEST = 3.4028234663852886e38
"""The largest float32: what overflows becomes this, or its negative."""
SMALLEST = 1e-30
"""The logarithm takes anything below for this, and a quotient by less is limited. Well above the least float32 of
full precision, 1.2e-38, which some processors round to zero."""
LEAST_LOG1P = 2.0**-20 - 1
"""`log1p` takes anything below for this: so far from -1, where it is minus infinity, that no rounding of its argument
gets there."""
LARGEST_PREDICTION = 1e9
"""Predictions beyond count as this, so that a product of a few need not be limited."""
LARGEST_FIELD = 2.0**63
"""Float fields beyond count as this; integers are not larger."""

Bounds = tuple[float, float]
ANY: Bounds = (-LARGEST, LARGEST)
"""Of numbers of which nothing is known: the operations on them must keep what they make within float32."""

_ERROR = 2.0**-20
"""Sixteen units of float32's rounding, 2^-24: more than any one operation errs, libraries' exponentials included."""


class Operation(NamedTuple):
    """One operation.

    Attributes:
        run: the operation on tensors; its result shares no memory with its arguments.
        dtype: of the result; None: of the last argument.
        bounds: least and greatest result, from those of each argument; None where the result is no number.
        reuse: the same, written into its first argument; None where there is no such form.
        commutes: whether arguments can change places.
    """

    run: Callable[..., Tensor]
    dtype: torch.dtype | None
    bounds: Callable[..., Bounds] | None = None
    reuse: Callable[..., Tensor] | None = None
    commutes: bool = False


def _widened(low: float, high: float, scale: float) -> Bounds:
    """Bounds after rounding; rounding alone never changes a sign."""
    error = _ERROR * scale
    return (max(low - error, 0.0) if low >= 0 else low - error, min(high + error, 0.0) if high <= 0 else high + error)


def _largest(*bounds: Bounds) -> float:
    return max(abs(end) for pair in bounds for end in pair)


def _sum(x: Bounds, y: Bounds) -> Bounds:
    return _widened(x[0] + y[0], x[1] + y[1], _largest(x, y))


def _difference(x: Bounds, y: Bounds) -> Bounds:
    return _widened(x[0] - y[1], x[1] - y[0], _largest(x, y))


def _product(x: Bounds, y: Bounds) -> Bounds:
    corners = [a * b for a, b in product(x, y)]
    return _widened(min(corners), max(corners), _largest((min(corners), max(corners))))


def _quotient(x: Bounds, y: Bounds) -> Bounds:
    if y[0] < SMALLEST and y[1] > -SMALLEST:
        return -math.inf, math.inf
    corners = [a / b for a, b in product(x, y)]
    return _widened(min(corners), max(corners), _largest((min(corners), max(corners))))


def _increasing(function: Callable[[float], float]) -> Callable[[Bounds], Bounds]:
    def bounds(x: Bounds) -> Bounds:
        low, high = function(x[0]), function(x[1])
        return _widened(low, high, 10 * _largest((low, high)))

    return bounds


def _hull(_: Bounds, x: Bounds, y: Bounds) -> Bounds:
    return min(x[0], y[0]), max(x[1], y[1])


def _divide(x: Any, y: Any) -> Tensor:
    # A scalar over a tensor is its product with the reciprocal, which overflows for a `y` that the quotient does not.
    result: Tensor = (x if isinstance(x, Tensor) else torch.full_like(y, x)) / _divisor(x, y)
    return result


def _divisor(x: Any, y: Any) -> Tensor:
    return y if isinstance(y, Tensor) else divisor(x, y)


def _divide_or_zero(x: Any, y: Tensor) -> Tensor:
    return torch.where(y == 0, 0.0, _divide(x, y))


def _power(x: Any, y: Any) -> Tensor:
    """The power; 0 where it is no number, and for a negative power of 0."""
    result = torch.nan_to_num(torch.pow(x, y), nan=0.0, posinf=LARGEST, neginf=-LARGEST)
    if not isinstance(y, Tensor) and y >= 0:
        return result
    return torch.where((x == 0) & (y < 0), 0.0, result)


def _finite(x: Tensor, limit: float) -> Tensor:
    """Read a prediction or a float field: NaN counts as 0."""
    return x.clamp(-limit, limit).to(torch.float32).nan_to_num_(nan=0.0)


def _member(x: Tensor, table: Tensor) -> Tensor:
    """Whether each value is in the sorted `[n]` table."""
    places = torch.searchsorted(table, x).clamp_(max=len(table) - 1)
    return table[places] == x


_NUMBER, _TRUTH = torch.float32, torch.bool

OPERATIONS: dict[str, Operation] = {
    "+": Operation(operator.add, _NUMBER, _sum, lambda x, y: x.add_(y), commutes=True),
    "-": Operation(operator.sub, _NUMBER, _difference, lambda x, y: x.sub_(y)),
    "*": Operation(operator.mul, _NUMBER, _product, lambda x, y: x.mul_(y), commutes=True),
    "/": Operation(_divide, _NUMBER, _quotient, lambda x, y: x.div_(_divisor(x, y))),
    "/ or 0": Operation(_divide_or_zero, _NUMBER, _quotient),
    "negate": Operation(operator.neg, _NUMBER, lambda x: (-x[1], -x[0]), lambda x: x.neg_()),
    "min": Operation(
        lambda x, y: x.clamp(max=y),
        _NUMBER,
        lambda x, y: (min(x[0], y[0]), min(x[1], y[1])),
        lambda x, y: x.clamp_(max=y),
        commutes=True,
    ),
    "max": Operation(
        lambda x, y: x.clamp(min=y),
        _NUMBER,
        lambda x, y: (max(x[0], y[0]), max(x[1], y[1])),
        lambda x, y: x.clamp_(min=y),
        commutes=True,
    ),
    "abs": Operation(torch.abs, _NUMBER, lambda x: (max(x[0], -x[1], 0.0), _largest(x)), lambda x: x.abs_()),
    "log": Operation(torch.log, _NUMBER, _increasing(math.log), lambda x: x.log_()),
    "log1p": Operation(torch.log1p, _NUMBER, _increasing(math.log1p), lambda x: x.log1p_()),
    "exp": Operation(torch.exp, _NUMBER, _increasing(lambda x: math.exp(min(x, 700.0))), lambda x: x.exp_()),
    "sqrt": Operation(torch.sqrt, _NUMBER, _increasing(math.sqrt), lambda x: x.sqrt_()),
    "pow": Operation(_power, _NUMBER, lambda x, y: (0.0 if x[0] >= 0 else -LARGEST, LARGEST)),
    "limit": Operation(
        lambda x: x.clamp(-LARGEST, LARGEST),
        _NUMBER,
        lambda x: (max(x[0], -LARGEST), min(x[1], LARGEST)),
        lambda x: x.clamp_(-LARGEST, LARGEST),
    ),
    "finite": Operation(_finite, _NUMBER, lambda x, limit: (-limit[1], limit[1])),
    "number": Operation(
        lambda x: x.to(_NUMBER),
        _NUMBER,
        lambda x: (max(x[0], -LARGEST_FIELD), min(x[1], LARGEST_FIELD)),
    ),
    "select": Operation(torch.where, None, _hull),
    "days": Operation(lambda x, y: x - y, torch.int64, lambda x, y: (-LARGEST_FIELD, LARGEST_FIELD)),
    "==": Operation(operator.eq, _TRUTH, commutes=True),
    "!=": Operation(operator.ne, _TRUTH, commutes=True),
    "<": Operation(operator.lt, _TRUTH),
    "<=": Operation(operator.le, _TRUTH),
    ">": Operation(operator.gt, _TRUTH),
    ">=": Operation(operator.ge, _TRUTH),
    "and": Operation(operator.and_, _TRUTH, None, lambda x, y: x.logical_and_(y), commutes=True),
    "or": Operation(operator.or_, _TRUTH, None, lambda x, y: x.logical_or_(y), commutes=True),
    "not": Operation(torch.logical_not, _TRUTH, None, lambda x: x.logical_not_()),
    "member": Operation(_member, _TRUTH),
    "tag": Operation(lambda x, tag: (x == tag).any(dim=-1), _TRUTH),
    "tag member": Operation(lambda x, table: _member(x, table).any(dim=-1), _TRUTH),
}
"""Every operation by name: those of the language by theirs."""
