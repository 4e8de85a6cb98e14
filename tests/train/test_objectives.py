"""Losses against their formulas, and by request against by impression."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn
from two_tastes import FORMAT, ITEMS, items, requests_table

from silverray.shard.model.scorer_files import make_scorer
from silverray.shard.model.scorers import MixtureOfLogits, load_imbalance
from silverray.shard.towers.two_tower import Encoded, TwoTower
from silverray.shard.train.batch import Batch
from silverray.shard.train.joint import JointModel, distinct
from silverray.shard.train.loader import LoaderConfig, RequestLoader
from silverray.shard.train.objectives import BinaryCrossEntropy, SampledSoftmax
from silverray.shard.train.parts import by_impression, part_of, thinned
from silverray.shard.train.requests import RequestTable
from silverray.shard.train.scoring import SampledScoring
from silverray.shard.train.shapes import Widths, make_towers


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    file = tmp_path_factory.mktemp("requests") / "requests.parquet"
    table = requests_table(21, seed=3)
    # Uneven requests: the n-th shows 1 to 4 items.
    for column in ("items", "liked", "watched"):
        lists = [own[: 1 + n % 4] for n, own in enumerate(table.column(column).to_pylist())]
        field = table.field(column)
        table = table.set_column(table.column_names.index(column), field, pa.array(lists, field.type))
    pq.write_table(table, file)
    (batch,) = RequestLoader(RequestTable.open(file, FORMAT), items(), LoaderConfig(requests=100)).batches(0)
    return batch


@pytest.fixture
def model() -> TwoTower:
    torch.manual_seed(0)
    return make_towers(FORMAT, items(), Widths(dimension=8, hidden=16, ids=8, categories=4))


def shares() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.rand(ITEMS + 1, generator=generator, dtype=torch.float64)
    return drawn / drawn.sum()


def objectives() -> dict[str, nn.Module]:
    return {
        "softmax": SampledSoftmax(0, 0.2, shares()),
        "watched": SampledSoftmax(1, 0.1, shares()),
        "cross-entropy": BinaryCrossEntropy(0),
    }


def item_ids(batch: Batch) -> Tensor:
    ids: Tensor = batch.items["item"].values()
    return ids


def test_sampled_softmax_is_its_formula(batch: Batch, model: TwoTower) -> None:
    encoded = model(batch.user, batch.items, batch.request)
    ids = item_ids(batch)
    candidates = distinct(ids, encoded.items)
    assert candidates.ids.tolist() == sorted(set(ids.tolist()))
    loss = SampledSoftmax(0, 0.2, shares())(encoded, batch, ids, candidates)
    users, vectors = encoded.users.detach().double().numpy(), encoded.items.detach().double().numpy()
    first = {item: place for place, item in reversed(list(enumerate(ids.tolist())))}
    total = 0.0
    for place, item in enumerate(ids.tolist()):
        if batch.labels[place, 0] <= 0:
            continue
        user = users[batch.request[place], 0]
        q = {other: 1 - (1 - float(shares()[other])) ** len(ids) for other in first}
        score = {other: user @ vectors[row] / 0.2 - np.log(q[other]) for other, row in first.items()}
        total += np.log(sum(map(np.exp, score.values()))) - score[item]
    assert float(loss.examples) == float((batch.labels[:, 0] > 0).sum())
    assert loss.total.item() == pytest.approx(total, rel=1e-5)


def test_an_item_that_was_never_counted_has_a_finite_loss(batch: Batch, model: TwoTower) -> None:
    encoded = model(batch.user, batch.items, batch.request)
    ids = item_ids(batch)
    never = SampledSoftmax(0, 0.1, torch.zeros(ITEMS + 1, dtype=torch.float64))
    assert torch.isfinite(never(encoded, batch, ids, distinct(ids, encoded.items)).total)


def test_binary_cross_entropy_is_its_formula(batch: Batch, model: TwoTower) -> None:
    encoded = model(batch.user, batch.items, batch.request)
    loss = BinaryCrossEntropy(1)(encoded, batch, item_ids(batch), distinct(item_ids(batch), encoded.items))
    chance = torch.sigmoid(5 * encoded.cosines[:, 1].double())
    wanted = -torch.where(batch.labels[:, 1] > 0, chance.log(), (1 - chance).log()).sum()
    assert loss.total.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert float(loss.examples) == len(batch.request)


def scoring(kind: str, *, sampled: int = 1_000, balance: float = 0.0) -> SampledScoring:
    torch.manual_seed(3)
    features = torch.randn(ITEMS + 1, 2)
    scorer = make_scorer(kind, 2, 8, 2, {"hidden": 8})
    with torch.no_grad():
        for weight in scorer.parameters():
            weight.add_(0.2 * torch.randn(weight.shape))
    return SampledScoring(scorer, features, shares(), temperature=0.2, sampled=sampled, balance=balance)


@pytest.mark.parametrize("kind", ["mlp", "mixture_of_logits"])
def test_scoring_among_all_items_is_the_sampled_softmax_of_its_scores(batch: Batch, model: TwoTower, kind: str) -> None:
    encoded = model(batch.user, batch.items, batch.request)
    ids = item_ids(batch)
    candidates, objective = distinct(ids, encoded.items), scoring(kind)
    loss = objective(encoded, batch, ids, candidates)
    places = torch.ones(len(batch.times), len(candidates.ids), dtype=torch.bool)
    vectors, features = (
        part.expand(len(batch.times), -1, -1) for part in (candidates.vectors, objective.features[candidates.ids])
    )
    scores = objective.scorer(encoded.users, vectors, features, places).double() / 0.2
    log_q = torch.log(1 - (1 - shares()[candidates.ids]) ** len(ids))
    logs = (scores - log_q[:, None]).log_softmax(dim=1)
    own = torch.searchsorted(candidates.ids, ids)
    wanted = -(logs[batch.request, own] * (batch.labels > 0)).sum()
    assert loss.total.item() == pytest.approx(wanted.item(), rel=1e-4)
    assert float(loss.examples) == float((batch.labels > 0).sum())


def test_scoring_samples_and_balances(batch: Batch, model: TwoTower) -> None:
    encoded = model(batch.user, batch.items, batch.request)
    ids = item_ids(batch)
    candidates = distinct(ids, encoded.items)

    def total(objective: SampledScoring) -> float:
        torch.manual_seed(0)
        return float(objective(encoded, batch, ids, candidates).total.item())

    few, all_of_them = (total(scoring("mixture_of_logits", sampled=sampled)) for sampled in (5, 1_000))
    assert 0 < few < all_of_them
    examples = float((batch.labels > 0).sum())
    balanced = scoring("mixture_of_logits", balance=2.0)
    assert isinstance(balanced.scorer, MixtureOfLogits)
    gates = balanced.scorer.mixture(encoded.users, candidates.vectors[None], balanced.features[candidates.ids][None])[1]
    extra = 2.0 * examples * load_imbalance(gates.flatten(0, 2)).item()
    assert total(balanced) == pytest.approx(all_of_them + extra, rel=1e-4)


def test_scorers_learn_and_towers_do_not_learn_from_them(batch: Batch, model: TwoTower) -> None:
    objective = scoring("mlp", sampled=20)
    joint = JointModel(model, {"scorer": objective}, lambda rows: rows)
    torch.autograd.backward(joint(batch)[:, 0].sum())
    assert all(weight.grad is None for weight in model.parameters())
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in objective.scorer.parameters())


def test_a_set_wise_scorer_has_an_objective_of_its_own() -> None:
    with pytest.raises(ValueError, match="scorer: expected a pointwise one, got SelfAttention"):
        scoring("self_attention")


def gradients(model: TwoTower, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    joint = JointModel(model, objectives(), lambda rows: rows)
    joint.zero_grad()
    losses: Tensor = joint(batch)
    torch.autograd.backward(losses[:, 0].sum())
    found = {name: weight.grad.clone() for name, weight in joint.named_parameters() if weight.grad is not None}
    assert len(found) == len(list(joint.parameters()))
    return losses.detach(), found


def test_losses_and_gradients_by_request_are_those_by_impression(batch: Batch, model: TwoTower) -> None:
    apart = by_impression(batch)
    assert len(apart.times) == len(batch.request) > 2 * len(batch.times)
    by_request, single = gradients(model, batch), gradients(model, apart)
    torch.testing.assert_close(by_request[0], single[0], rtol=1e-6, atol=0)
    for name, gradient in by_request[1].items():
        torch.testing.assert_close(gradient, single[1][name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("size", [2, 30])
def test_losses_of_parts_add_up_even_where_parts_are_empty(batch: Batch, model: TwoTower, size: int) -> None:
    vectors = model.items(batch.items)

    def gathered(rows: Tensor) -> Tensor:
        return vectors.detach() if rows.is_floating_point() else item_ids(batch)

    whole = JointModel(model, objectives(), lambda rows: rows)(batch)
    joint = JointModel(model, objectives(), gathered)
    parts = [joint(part_of(batch, rank, size)) for rank in range(size)]
    torch.testing.assert_close(torch.stack(parts).sum(dim=0), whole, rtol=1e-5, atol=0)
    for losses in parts:
        joint.zero_grad()
        torch.autograd.backward(losses[:, 0].sum())
        # All parameters take part, as processes that wait for each other's gradients need; items too, once gathered.
        assert all(weight.grad is not None for weight in model.users.parameters())


def test_by_impression_repeats_the_user(batch: Batch) -> None:
    apart = by_impression(batch)
    seen, request = batch.user["seen"].to_dense(), batch.request.tolist()
    assert [ids.tolist() for ids in apart.user["seen"].to_dense()] == [seen[row].tolist() for row in request]
    assert torch.equal(apart.user["age"].values(), batch.user["age"].values()[batch.request])
    assert torch.equal(apart.times, batch.times[batch.request])
    assert apart.request.tolist() == list(range(len(request)))


@pytest.mark.parametrize("size", [1, 2, 3, 30])
def test_parts_make_up_the_batch(batch: Batch, size: int) -> None:
    parts = [part_of(batch, rank, size) for rank in range(size)]
    assert torch.equal(torch.cat([part.times for part in parts]), batch.times)
    assert torch.equal(torch.cat([part.labels for part in parts]), batch.labels)
    for name in ("seen", "age"):
        assert torch.equal(torch.cat([part.user[name].values() for part in parts]), batch.user[name].values())
    assert torch.equal(torch.cat([item_ids(part) for part in parts]), item_ids(batch))
    firsts = np.cumsum([0, *(len(part.times) for part in parts[:-1])])
    back = [part.request + int(first) for part, first in zip(parts, firsts, strict=True)]
    assert torch.equal(torch.cat(back), batch.request)


def test_thinning_leaves_out_ids_at_random(batch: Batch) -> None:
    torch.manual_seed(0)
    whole, half, none = (thinned(batch.user, {"seen": rate})["seen"] for rate in (0.0, 0.5, 1.0))
    assert torch.equal(whole.values(), batch.user["seen"].values())
    assert torch.equal(whole.lengths(), batch.user["seen"].lengths())
    assert len(none.values()) == 0
    assert 0 < len(half.values()) < len(whole.values())
    for kept, all_ids in zip(half.to_dense(), whole.to_dense(), strict=True):
        assert set(kept.tolist()) <= set(all_ids.tolist())
    assert torch.equal(thinned(batch.user, {"seen": 1.0})["age"].values(), batch.user["age"].values())


def test_a_module_of_ones_own_is_trained_jointly(batch: Batch, model: TwoTower) -> None:
    class Popular(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(2))

        def forward(
            self, encoded: Encoded, batch: Batch, item_ids: Tensor, candidates: object
        ) -> tuple[Tensor, Tensor]:
            squares = (encoded.cosines + self.bias - batch.labels).square().sum()
            return squares, torch.tensor(float(len(item_ids)))

    joint = JointModel(model, {**objectives(), "own": Popular()}, lambda rows: rows)
    losses = joint(batch)
    assert losses.shape == (4, 2)
    torch.autograd.backward(losses[3, 0])
    assert joint.objectives["own"].bias.grad is not None
    assert model.users.layers.heads.weight.grad is not None
