"""Choosing probes: the kernel against the reference, and the reference against a loop."""

import pytest
import torch
from torch import Tensor

from silverray.kernels.bits import count_ranges
from silverray.kernels.probes import choose_probes, reference
from silverray.kernels.programs import reference as evaluate

from .cases import THREADS, Lists, make_lists, threads


def make(lists: Lists, seed: int) -> tuple[Tensor, ...]:
    """Arguments of `choose_probes`; a third of the queries ask for nothing in each of the three respects."""
    g = torch.Generator().manual_seed(seed)
    count, clusters = lists.bases.shape
    sizes = lists.offsets.diff() + 3 * (seed % 2)
    total = int(sizes.sum())
    least = torch.randint(0, clusters + 2, (count,), generator=g)
    visit = (torch.rand(count, generator=g) ** 3 * total * 1.1).long()
    passing = (torch.rand(count, generator=g) ** 3 * len(lists.codes)).long()
    least[1::2], visit[::3], passing[::4] = 0, 0, 0
    return lists.bases, sizes, lists.offsets, lists.planes, lists.programs, lists.filters, least, visit, passing


def check(arguments: tuple[Tensor, ...]) -> None:
    """Rows hold the same clusters; -1 fills their ends."""
    expected = reference(*arguments)
    for number in THREADS:
        with threads(number):
            found = choose_probes(*arguments)
        assert found.shape == expected.shape
        assert torch.equal(found >= 0, expected >= 0)
        assert torch.equal(found.sort(dim=1).values, expected.sort(dim=1).values)


@pytest.mark.parametrize(
    ("n", "clusters", "queries"),
    [
        (1, 1, 1),
        (64, 2, 30),
        (500, 15, 40),
        (513, 16, 40),
        (5000, 17, 50),
        (4097, 300, 50),
        (100, 257, 50),
        (9001, 3, 20),
    ],
)
def test_the_kernel_agrees_with_the_reference(n: int, clusters: int, queries: int) -> None:
    for seed in (0, 1):
        check(make(make_lists(n, 1, clusters, queries, seed=seed, spare_words=seed), seed))


def test_of_equal_scores_the_lowest_numbers_are_chosen() -> None:
    lists = make_lists(3000, 1, 100, 60, seed=3)
    lists.bases[:] = torch.randint(0, 3, lists.bases.shape, generator=torch.Generator().manual_seed(0))
    check(make(lists, 3))
    lists.bases[:] = 1.0
    check(make(lists, 3))


def test_a_zero_and_a_negative_zero_are_equal_scores() -> None:
    lists = make_lists(3000, 1, 100, 60, seed=3)
    lists.bases[:] = torch.where(torch.arange(100) % 3 > 0, 0.0, -0.0)
    check(make(lists, 3))


def test_as_few_are_chosen_as_are_enough() -> None:
    lists = make_lists(2000, 1, 50, 40, seed=7)
    arguments = make(lists, 7)
    scores, sizes, offsets, *_, least, visit, passing = arguments
    inside = count_ranges(evaluate(lists.planes, lists.programs), offsets)[lists.filters]
    found = choose_probes(*arguments)
    for query in range(40):
        order = torch.argsort(scores[query], descending=True).tolist()
        for count in range(1, 51):
            some = order[:count]
            enough = count >= least[query] and sizes[some].sum() >= visit[query] < sizes.sum()
            if enough and inside[query, some].sum() >= passing[query]:
                break
        assert sorted(found[query][found[query] >= 0].tolist()) == sorted(order[:count])


def test_all_are_chosen_where_less_will_not_do() -> None:
    lists = make_lists(700, 1, 20, 3, seed=1, filters=("none", "all"))
    lists.filters[:] = torch.tensor([0, 1, 1])
    zeros = torch.zeros(3, dtype=torch.int64)
    shared = (lists.bases, lists.offsets.diff(), lists.offsets, lists.planes, lists.programs, lists.filters)
    for least, visit, passing in (
        (zeros + 20, zeros, zeros),
        (zeros + 9999, zeros, zeros),
        (zeros, zeros + 700, zeros),
        (zeros, zeros + 10**9, zeros),
        (zeros, zeros, torch.tensor([1, 701, 10**9])),
    ):
        check((*shared, least, visit, passing))
        assert (choose_probes(*shared, least, visit, passing) >= 0).all()
    assert choose_probes(*shared, zeros, zeros, zeros).shape == (3, 1)


def test_negative_demands_no_queries_and_views_of_larger_tensors() -> None:
    lists = make_lists(900, 1, 24, 12, seed=2)
    arguments = make(lists, 2)
    check((*arguments[:6], *(part - 5 for part in arguments[6:])))
    assert choose_probes(arguments[0][:0], *arguments[1:5], *(part[:0] for part in arguments[5:])).shape == (0, 0)
    views = []
    for part in arguments:
        wide = torch.zeros([2 * size + 3 for size in part.shape], dtype=part.dtype)
        views.append(wide[tuple(slice(1, 2 * size + 1, 2) for size in part.shape)].copy_(part))
    found, expected = choose_probes(*views), reference(*arguments)
    assert torch.equal(found.sort(dim=1).values, expected.sort(dim=1).values)
