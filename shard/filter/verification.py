"""Exact evaluation of expressions on stored values.

Letters: m slots to look at, n slots in all, R planes, W words.
"""

from __future__ import annotations

import torch
from torch import Tensor

from silverray.shard.filter.expression import And, Expression, Not, OneOf, Or, PlaneTest, Present, Range
from silverray.shard.schema.columns import Column, Columns


def matches(expression: Expression, columns: Columns, planes: Tensor, slots: Tensor) -> Tensor:
    """Evaluate an expression for given slots.

    Args:
        expression: what to evaluate.
        columns: stored values of the n slots.
        planes: `[R, W]` int64, the slots' planes; only a `PlaneTest` reads them.
        slots: `[m]` int64 slots, in any order, maybe repeated; on the device of columns and planes.

    Returns:
        `[m]` bool on that device.

    Cost:
        One gather of m values per leaf, and of all their tags per leaf on tags.
    """
    match expression:
        case Present(field):
            present = columns.fields[field].present
            return torch.ones_like(slots, dtype=torch.bool) if present is None else present[slots]
        case OneOf(field, values):
            return _one_of(columns.fields[field], values, slots)
        case Range(field, low, high):
            return _in_range(columns.fields[field], low, high, slots)
        case Not(operand):
            return ~matches(operand, columns, planes, slots)
        case And(operands):
            result = torch.ones_like(slots, dtype=torch.bool)
            for operand in operands:
                result &= matches(operand, columns, planes, slots)
            return result
        case Or(operands):
            result = torch.zeros_like(slots, dtype=torch.bool)
            for operand in operands:
                result |= matches(operand, columns, planes, slots)
            return result
        case PlaneTest(groups):
            return _planes_set(planes, groups, slots)


def _one_of(column: Column, values: tuple[int, ...] | tuple[float, ...], slots: Tensor) -> Tensor:
    wanted = torch.tensor(values, dtype=column.values.dtype, device=slots.device)
    if column.offsets is not None:
        tags = column.tags_of(slots)
        found = torch.isin(column.values[tags.values], wanted)
        result = torch.zeros_like(slots, dtype=torch.bool)
        result[tags.rows[found]] = True
        return result
    return _where_present(column, torch.isin(column.values[slots], wanted), slots)


def _in_range(column: Column, low: float | None, high: float | None, slots: Tensor) -> Tensor:
    values = column.values[slots]
    result = torch.ones_like(slots, dtype=torch.bool)
    if low is not None:
        result &= values >= low
    if high is not None:
        result &= values <= high
    return _where_present(column, result, slots)


def _where_present(column: Column, result: Tensor, slots: Tensor) -> Tensor:
    return result if column.present is None else result & column.present[slots]


def _planes_set(planes: Tensor, groups: tuple[tuple[int, ...], ...], slots: Tensor) -> Tensor:
    rows = sorted({plane for group in groups for plane in group})
    places = {plane: place for place, plane in enumerate(rows)}
    set_ = (planes[rows][:, slots >> 6] >> (slots & 63) & 1).bool()
    result = torch.zeros_like(slots, dtype=torch.bool)
    for group in groups:
        result |= set_[[places[plane] for plane in group]].all(dim=0)
    return result
