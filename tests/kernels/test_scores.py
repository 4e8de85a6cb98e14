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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("batch", "tasks", "count", "d"),
    [(1, 1, 1, 1), (1, 2, 1_000, 64), (3, 2, 17, 50), (5, 6, 33, 128), (2, 1, 16, 1_000), (0, 2, 5, 8), (2, 3, 0, 8)],
)
def test_dot_products_are_exact_scores(batch: int, tasks: int, count: int, d: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(d)
    users = torch.randn(batch, tasks, d, generator=generator)
    vectors = torch.randn(200, d, generator=generator).to(dtype)
    slots = torch.randint(-1, 200, (batch, count), generator=generator)
    scores = dot_products(users, vectors, slots)
    assert torch.equal(scores, dot_products_reference(users, vectors, slots))
    for row in range(batch):
        for task in range(tasks):
            exact = exact_scores(vectors, users[row, task][None], torch.zeros_like(slots[row]), slots[row])
            assert torch.equal(scores[row, :, task], exact)


def test_dot_products_without_items_are_minus_infinity() -> None:
    for op in (dot_products, dot_products_reference):
        assert op(torch.ones(2, 1, 8), torch.ones(0, 8), torch.full((2, 3), -1)).tolist() == [[[-torch.inf]] * 3] * 2


def test_dot_products_refuse_what_does_not_fit() -> None:
    slots = torch.zeros(2, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"expected \[B, T, D\] and \[N, D\], got \[2, 1, 8\] and \[5, 9\]"):
        dot_products(torch.zeros(2, 1, 8), torch.zeros(5, 9), slots)
    with pytest.raises(ValueError, match=r"slots: expected \[3, K\], got \[2, 5\]"):
        dot_products(torch.zeros(3, 1, 8), torch.zeros(5, 8), slots)
    with pytest.raises(ValueError, match="expected float32, float32 or bfloat16, and int64"):
        dot_products(torch.zeros(2, 1, 8), torch.zeros(5, 8, dtype=torch.float64), slots)
