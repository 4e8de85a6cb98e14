"""Exact scores."""

import pytest
import torch

from silverray.kernels.scores import dot_products, dot_products_reference, exact_scores, halving_sum


@pytest.mark.parametrize("d", [1, 2, 50, 128, 1000])
def test_exact_scores_are_the_same_bit_for_bit_in_any_batch_and_near_the_true_product(d: int) -> None:
    generator = torch.Generator().manual_seed(d)
    vectors, queries = torch.randn(300, d, generator=generator), torch.randn(7, d, generator=generator)
    rows = torch.arange(7).repeat_interleave(300)
    slots = torch.arange(300).repeat(7)
    scores = exact_scores(vectors, queries, rows, slots)
    true = (queries.double() @ vectors.double().T).flatten()
    bound = d * 2**-23 * (queries.abs().double() @ vectors.abs().double().T).flatten()
    assert ((scores - true).abs() <= bound).all()
    for pair in (0, 299, 300, 2099):
        assert exact_scores(vectors, queries, rows[pair : pair + 1], slots[pair : pair + 1])[0] == scores[pair]
    assert exact_scores(vectors, queries, rows[:1], torch.tensor([-1]))[0] == -torch.inf


def test_the_second_half_is_added_to_the_first() -> None:
    big = 2.0**24
    assert halving_sum(torch.tensor([[1.0, 2.0, 4.0]])).tolist() == [7.0]
    # (big + 1) rounds to big, (1 - big) to 1 - big: another order would give 0 or 2.
    assert halving_sum(torch.tensor([[big, 1.0, 1.0, -big]])).tolist() == [1.0]
    assert halving_sum(torch.zeros(2, 0)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("batch", "tasks", "count", "d"),
    [(1, 1, 1, 1), (1, 2, 1_000, 64), (3, 2, 17, 50), (5, 6, 33, 128), (2, 1, 16, 1_000), (0, 2, 5, 8), (2, 3, 0, 8)],
)
def test_dot_products_are_exact_scores(batch: int, tasks: int, count: int, d: int) -> None:
    generator = torch.Generator().manual_seed(d)
    users = torch.randn(batch, tasks, d, generator=generator)
    items = torch.randn(batch, count, d, generator=generator)
    scores = dot_products(users, items)
    assert torch.equal(scores, dot_products_reference(users, items))
    for row in range(batch):
        for task in range(tasks):
            exact = exact_scores(
                items[row], users[row, task][None], torch.zeros(count, dtype=torch.int64), torch.arange(count)
            )
            assert torch.equal(scores[row, :, task], exact)


def test_dot_products_of_parts_of_wider_rows_read_nothing_beside_them() -> None:
    wide = torch.full((2, 5, 16), torch.nan)
    wide[:, :, :10] = torch.randn(2, 5, 10, generator=torch.Generator().manual_seed(1))
    items, users = wide[:, :, :10], wide[:, :3, :10]
    assert torch.equal(dot_products(users, items), dot_products_reference(users, items))


def test_dot_products_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"expected \[B, T, D\] and \[B, K, D\], got \[2, 1, 8\] and \[2, 5, 9\]"):
        dot_products(torch.zeros(2, 1, 8), torch.zeros(2, 5, 9))
    with pytest.raises(ValueError, match="expected float32"):
        dot_products(torch.zeros(2, 1, 8), torch.zeros(2, 5, 8, dtype=torch.float64))
