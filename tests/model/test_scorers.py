"""Scorers: their contract, what they compute, and that pointwise ones judge each candidate by itself."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from silverray.kernels.scores import exact_scores
from silverray.shard.model.scorers import (
    LEAST,
    MLP,
    SCORERS,
    DotProduct,
    MixtureOfLogits,
    Scorer,
    SelfAttention,
    load_imbalance,
)
from silverray.shard.snapshot.catalog import SET_WISE_SCORERS

B, K, T, D, F = 5, 33, 2, 16, 3


class Given(NamedTuple):
    users: Tensor
    items: Tensor
    features: Tensor
    valid: Tensor

    def take(self, rows: slice, places: Tensor | slice = slice(None)) -> "Given":
        return Given(self.users[rows], *(part[rows][:, places] for part in self[1:]))


@pytest.fixture
def given() -> Given:
    g = torch.Generator().manual_seed(3)
    users, items = torch.randn(B, T, D, generator=g), torch.randn(B, K, D, generator=g)
    unit = nn.functional.normalize
    return Given(
        unit(users, dim=2), unit(items, dim=2), torch.randn(B, K, F, generator=g), torch.rand(B, K, generator=g) < 0.8
    )


def trained(name: str) -> Scorer:
    """A scorer with weights that all matter."""
    torch.manual_seed(1)
    scorer = SCORERS[name](T, D, F)
    with torch.no_grad():
        for weight in scorer.parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    return scorer.eval()


def test_the_dot_product_is_the_exact_score_bit_for_bit(given: Given) -> None:
    scores = DotProduct()(*given)
    assert scores.shape == (B, K, T)
    for row in range(B):
        for task in range(T):
            exact = exact_scores(
                given.items[row], given.users[row, task][None], torch.zeros(K, dtype=torch.int64), torch.arange(K)
            )
            assert torch.equal(scores[row, :, task], exact)


def test_the_dot_product_reads_nothing_beside_parts_of_wider_rows() -> None:
    wide = torch.full((2, 5, 16), torch.nan)
    wide[:, :, :10] = torch.randn(2, 5, 10, generator=torch.Generator().manual_seed(1))
    users, items = wide[:, :3, :10], wide[:, :, :10]
    scores = DotProduct()(users, items, items[:, :, :0], torch.ones(2, 5, dtype=torch.bool))
    torch.testing.assert_close(scores, torch.einsum("btd,bkd->bkt", users, items))


@pytest.mark.parametrize("name", SCORERS)
def test_an_untrained_scorer_ranks_as_the_dot_product(given: Given, name: str) -> None:
    torch.manual_seed(0)
    scores, dots = SCORERS[name](T, D, F)(*given), DotProduct()(*given)
    if name == "mixture_of_logits":  # nearly: the gate starts on the first component
        assert torch.corrcoef(torch.stack([scores.flatten(), dots.flatten()]))[0, 1] > 0.9
    else:
        torch.testing.assert_close(scores, dots)


@pytest.mark.parametrize("name", ["mlp", "mixture_of_logits"])
def test_pointwise_scores_of_long_lists_are_the_same_bit_for_bit_in_any_batch(name: str) -> None:
    g = torch.Generator().manual_seed(4)
    users, items = torch.randn(40, T, D, generator=g), torch.randn(40, 2 * LEAST, D, generator=g)
    features, valid = torch.randn(40, 2 * LEAST, F, generator=g), torch.ones(40, 2 * LEAST, dtype=torch.bool)
    scorer, given = trained(name), Given(users, items, features, valid)
    together = scorer(*given)
    for rows in (1, 2, 3, 17):
        for places in (LEAST, LEAST + 1, 2 * LEAST - 1):
            some = scorer(*given.take(slice(0, rows), slice(0, places)))
            assert torch.equal(some, together[:rows, :places])


@pytest.mark.parametrize("name", ["mlp", "mixture_of_logits"])
def test_pointwise_scores_depend_on_neither_batch_nor_list(given: Given, name: str) -> None:
    scorer = trained(name)
    together = scorer(*given)
    limit = 1e-6 * together.abs().clamp(min=1)
    for row in range(B):
        alone = scorer(*given.take(slice(row, row + 1)))
        assert ((alone[0] - together[row]).abs() <= limit[row]).all()
    order = torch.randperm(K, generator=torch.Generator().manual_seed(2))[:7]
    some = scorer(*given.take(slice(None), order))
    assert ((some - together[:, order]).abs() <= limit[:, order]).all()


def test_the_mlp_is_its_formula(given: Given) -> None:
    scorer = trained("mlp")
    assert isinstance(scorer, MLP)
    users, items, features = (part.double() for part in given[:3])
    wide, expected = scorer.double(), torch.empty(B, K, T, dtype=torch.float64)
    assert wide.features is not None
    for b in range(B):
        for k in range(K):
            for t in range(T):
                u, x = users[b, t], items[b, k]
                h = torch.relu(wide.user(u) + wide.item(x) + wide.product(u * x) + wide.features(features[b, k]))
                expected[b, k, t] = wide.scale[t] * (u @ x) + wide.heads[t] @ torch.relu(wide.layer(h)) + wide.bias[t]
    torch.testing.assert_close(wide(users, items, features, given.valid), expected)


def test_a_mixture_weighs_its_logits_and_its_weights_sum_to_one(given: Given) -> None:
    scorer = trained("mixture_of_logits")
    assert isinstance(scorer, MixtureOfLogits)
    logits, gates = scorer.mixture(*given[:3])
    assert logits.shape == gates.shape == (B, K, T, 17)
    torch.testing.assert_close(gates.sum(dim=3), torch.ones(B, K, T))
    torch.testing.assert_close(logits[..., 0], torch.einsum("btd,bkd->bkt", given.users, given.items))
    assert logits.abs().max() <= 1 + 1e-5  # cosines, since the towers' vectors have length 1
    torch.testing.assert_close(scorer(*given), scorer.scale * (logits * gates).sum(dim=3))


def test_load_is_balanced_when_pairs_choose_differently_and_decidedly() -> None:
    one_for_all = torch.tensor([[1.0, 0, 0, 0]] * 8)
    undecided = torch.full((8, 4), 0.25)
    spread = torch.eye(4).repeat(2, 1)
    assert load_imbalance(one_for_all) == 0
    assert load_imbalance(undecided).abs() < 1e-6
    torch.testing.assert_close(load_imbalance(spread), -torch.tensor(4.0).log())


def test_minimising_imbalance_spreads_the_components(given: Given) -> None:
    torch.manual_seed(0)
    scorer = MixtureOfLogits(T, D, F)
    before = scorer.mixture(*given[:3])[1].flatten(0, 2)
    optimizer = torch.optim.Adam(scorer.parameters(), lr=0.05)
    for _ in range(30):
        optimizer.zero_grad()
        load_imbalance(scorer.mixture(*given[:3])[1].flatten(0, 2)).backward()
        optimizer.step()
    after = scorer.mixture(*given[:3])[1].flatten(0, 2)
    assert before.mean(dim=0).amax() > 0.5 > after.mean(dim=0).amax()
    assert load_imbalance(after) < load_imbalance(before) - 1


def test_self_attention_sees_the_list_but_neither_its_order_nor_its_empty_places(given: Given) -> None:
    scorer = trained("self_attention")
    scores = scorer(*given)
    order = torch.randperm(K, generator=torch.Generator().manual_seed(2))
    shuffled = scorer(*given.take(slice(None), order))
    torch.testing.assert_close(shuffled, scores[:, order], rtol=1e-4, atol=1e-5)
    junk = given._replace(items=torch.where(given.valid[..., None], given.items, 7.0))
    torch.testing.assert_close(scorer(*junk)[given.valid], scores[given.valid], rtol=1e-4, atol=1e-5)
    fewer = given._replace(valid=given.valid & (torch.arange(K) < 10))
    assert (scorer(*fewer)[:, :10] - scores[:, :10]).abs().max() > 1e-3


@pytest.mark.parametrize("number", [torch.inf, 1e30])
def test_one_candidate_with_numbers_that_overflow_does_not_spoil_its_list(given: Given, number: float) -> None:
    scorer, valid = trained("self_attention"), torch.ones_like(given.valid)
    for part in (given.items, given.features):
        part[1, 4] = number
    with torch.inference_mode():
        scores = scorer(given.users, given.items, given.features, valid)
    others = torch.ones_like(valid)
    others[1, 4] = False
    assert scores[others].isfinite().all()
    assert scores[others].abs().amax() < 1e3
    assert len(scores[1, others[1], 0].unique()) > K // 2


def test_self_attention_over_no_candidate_is_finite(given: Given) -> None:
    scores = trained("self_attention")(*given._replace(valid=torch.zeros_like(given.valid)))
    assert scores.isfinite().all()


def test_catalogs_know_by_their_names_which_scorers_are_set_wise() -> None:
    assert {name for name, kind in SCORERS.items() if not kind.pointwise} == SET_WISE_SCORERS


def test_hidden_width_must_fit_the_heads() -> None:
    with pytest.raises(ValueError, match="hidden: expected a multiple of 4, got 6"):
        SelfAttention(T, D, F, hidden=6)


@pytest.mark.parametrize("name", SCORERS)
def test_bfloat16_weights_stay_close_to_float32(given: Given, name: str) -> None:
    scorer = trained(name)
    full = scorer(*given)
    scorer.load_state_dict({key: weight.bfloat16().float() for key, weight in scorer.state_dict().items()})
    assert (scorer(*given) - full).abs().max() < 0.03 * full.abs().max()


@pytest.mark.parametrize("name", SCORERS)
def test_scorers_compile_without_a_break_and_export(given: Given, name: str) -> None:
    scorer = trained(name)
    torch.compiler.reset()
    compiled = torch.compile(scorer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*given), scorer(*given), rtol=1e-4, atol=1e-5)
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(scorer, tuple(given), dynamic_shapes=[{0: batch}] * 4).module()
    for rows in (slice(0, 1), slice(0, 4)):
        some = given.take(rows)
        torch.testing.assert_close(exported(*some), scorer(*some), rtol=1e-4, atol=1e-5)
