"""Planning: the kernel against the reference, and the reference against plain arithmetic."""

import math

import numpy as np
import torch
from torch import Tensor

from silverray.kernels.plans import plan_visits, reference

from .cases import THREADS, Lists, make_lists, threads, unpack

CURVE = torch.tensor([[0.0, 2.0, 5.0, torch.inf], [0.01, 0.01, -0.19, 1.0], [0.0, 0.05, 0.15, 0.0]]).double()


def arguments_of(lists: Lists, few: int) -> tuple[Tensor | int, ...]:
    ks = torch.randint(1, 500, (len(lists.queries),), generator=torch.Generator().manual_seed(few))
    slots = len(lists.codes)
    return lists.planes, lists.programs, lists.filters, ks, CURVE, slots, 3 * slots, few


def test_the_kernel_agrees_with_the_reference() -> None:
    for n, few in ((0, 0), (1, 0), (64, 1), (1000, 100), (70_001, 20_000)):
        arguments = arguments_of(make_lists(n, 1, 1, 60, seed=n, spare_words=n % 3), few)
        survivors, least = reference(*arguments)  # type: ignore[arg-type]
        for number in THREADS:
            with threads(number):
                found = plan_visits(*arguments)  # type: ignore[arg-type]
            assert torch.equal(found[0], survivors)
            assert torch.equal(found[1], least)


def test_the_reference_agrees_with_plain_arithmetic() -> None:
    lists = make_lists(5_000, 1, 1, 40, seed=3)
    arguments = arguments_of(lists, 300)
    totals = unpack(torch.ops.silverray.evaluate_programs(lists.planes, lists.programs), 5_000).sum(1)
    survivors, least = reference(*arguments)  # type: ignore[arg-type]
    for query, (filter_, k) in enumerate(zip(lists.filters.tolist(), arguments[3].tolist(), strict=True)):  # type: ignore[union-attr]
        total = int(totals[filter_])
        log = math.log(k * 5_000 / max(1, total))
        fraction = np.interp(log, [0, 2, 5], [0.01, 0.11, 0.56]) if log <= 5 else 1.0
        assert survivors[query] == (total <= 300)
        assert abs(int(least[0, query]) - fraction * 15_000) <= 1
        assert abs(int(least[1, query]) - min(max(fraction * total, k), total)) <= 1
