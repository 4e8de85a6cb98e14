"""Planning: how much of the lists a query visits. Letters: Q queries, U programs, L instructions, R planes, W words."""

from __future__ import annotations

import torch
from torch import Tensor

from silverray.kernels.checks import check
from silverray.kernels.ops import define, lazily
from silverray.kernels.programs import count_passing


def plan_visits(
    planes: Tensor, programs: Tensor, filters: Tensor, ks: Tensor, curve: Tensor, slots: int, items: int, few: int
) -> tuple[Tensor, Tensor]:
    """Plan from the number of slots that pass each query's filter.

    A filter that passes a fraction s of the slots makes its top k the top k / s of all: at that depth a curve says
    which fraction of the items must be visited, and as large a fraction of what passes must be seen.

    Args:
        planes: `[R, W]` int64.
        programs: `[U, L]` int32, as in `evaluate_programs`.
        filters: `[Q]` int64, the program of each query.
        ks: `[Q]` int64 number of items wanted by each query.
        curve: `[3, J]` float64, J straight lines over the logarithm of the depth: where each ends (ascending, the last
            at infinity), its value at 0 and its slope.
        slots: number of slots, at most 64·W.
        items: number of items of which `curve` gives the fraction.
        few: where no more slots pass, all of them are to be scored.

    Returns:
        `[Q]` bool, whether few pass, and `[2, Q]` int64, items to visit and passing slots to see (at least k, or all).

    Raises:
        ValueError: a wrong dtype or shape.

    Cost:
        Reads 8·W bytes per plane instruction.
    """
    check("planes", planes, torch.int64, None, None)
    check("programs", programs, torch.int32, None, None)
    check("filters", filters, torch.int64, None)
    check("ks", ks, torch.int64, filters.shape[0])
    check("curve", curve, torch.float64, 3, None)
    if not 0 <= slots <= planes.shape[1] * 64:
        raise ValueError(f"slots: expected 0 to {planes.shape[1] * 64}, got {slots}")
    survivors, least = _plan_visits(planes, programs, filters, ks, curve, slots, items, few)
    return survivors, least


def reference(
    planes: Tensor, programs: Tensor, filters: Tensor, ks: Tensor, curve: Tensor, slots: int, items: int, few: int
) -> tuple[Tensor, Tensor]:
    """`plan_visits` by `count_passing`: the specification."""
    total = count_passing(planes, programs, slots)[filters]
    ends, starts, slopes = curve
    logs = ((ks * slots).double() / total.clamp(min=1)).clamp(min=1).log()
    line = torch.searchsorted(ends, logs)
    fraction = starts[line] + slopes[line] * logs
    visit = (fraction * items).ceil().long()
    passing = (fraction * total).ceil().long().maximum(ks).minimum(total)
    return total <= few, torch.stack([visit, passing])


_plan_visits = define(
    "plan_visits",
    reference,
    cpu=lazily("cpu.plans.launch"),
    fake=lambda filters, **_: (
        filters.new_empty(filters.shape[0], dtype=torch.bool),
        filters.new_empty(2, filters.shape[0]),
    ),
)
