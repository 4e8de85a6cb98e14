"""The objective of set-wise scorers: its formula, its sets, its memory, and that it learns what a list says."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from silverray.shard.model.scorers import SelfAttention
from silverray.shard.towers.two_tower import Encoded
from silverray.shard.train import set_scoring
from silverray.shard.train.batch import Batch
from silverray.shard.train.joint import distinct
from silverray.shard.train.objectives import Candidates
from silverray.shard.train.set_scoring import SetScoring

ITEMS, D, F, T = 40, 8, 2, 2
TEMPERATURE = 0.2
# Requests 1 and 4 take nothing; request 2 takes item 7 twice, request 3 five items.
REQUEST = [0, 0, 0, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 4]
SHOWN = [5, 9, 11, 5, 7, 7, 9, 1, 2, 3, 4, 5, 6, 20]
LIKED = [1, 0, 0, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0]
WATCHED = [1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 0]


def shares() -> Tensor:
    drawn = torch.rand(ITEMS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return drawn / drawn.sum()


def scoring(sampled: int) -> SetScoring:
    torch.manual_seed(3)
    scorer = SelfAttention(T, D, F, hidden=8)
    with torch.no_grad():
        for weight in scorer.parameters():
            weight.add_(0.2 * torch.randn(weight.shape))
    return SetScoring(scorer, torch.randn(ITEMS, F), shares(), temperature=TEMPERATURE, sampled=sampled)


def make_batch(request: list[int], labels: list[list[float]]) -> Batch:
    nothing: Any = None
    return Batch(nothing, nothing, torch.tensor(request, dtype=torch.int64), torch.tensor(labels), nothing)


@pytest.fixture
def given() -> tuple[Encoded, Batch, Tensor, Candidates]:
    g = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize
    vectors = unit(torch.randn(ITEMS, D, generator=g), dim=1)
    users = unit(torch.randn(5, T, D, generator=g), dim=2).requires_grad_()
    ids = torch.tensor(SHOWN)
    items = vectors[ids].requires_grad_()
    labels = [[float(like), float(watch)] for like, watch in zip(LIKED, WATCHED, strict=True)]
    # As if another process had brought items of its own.
    others = torch.tensor([30, 31, 32, 33])
    candidates = distinct(torch.cat([ids, others]), torch.cat([items, vectors[others]]))
    return Encoded(users, items, torch.zeros(len(ids), T)), make_batch(REQUEST, labels), ids, candidates


def total(objective: SetScoring, given: tuple[Encoded, Batch, Tensor, Candidates], drawn: Tensor) -> Tensor:
    """The loss by the formula, a request at a time in float64."""
    encoded, batch, ids, candidates = given
    scorer, loss = objective.scorer.double(), torch.zeros((), dtype=torch.float64)
    for row in range(len(encoded.users)):
        mine = (batch.request == row) & (batch.labels > 0).any(dim=1)
        own = sorted(set(ids[mine].tolist()))
        of_set = own + [item for item in candidates.ids[drawn].tolist() if item not in own]
        if not own:
            continue
        of_set_ids = torch.tensor(of_set)
        vectors = candidates.vectors[torch.searchsorted(candidates.ids, of_set_ids)].double()[None]
        features, valid = objective.features[of_set_ids].double()[None], torch.ones(1, len(of_set), dtype=torch.bool)
        scores = scorer(encoded.users[row : row + 1].double(), vectors, features, valid)[0] / TEMPERATURE
        log_q = torch.log(1 - (1 - shares()[of_set_ids]) ** candidates.drawn)
        logs = (scores - log_q[:, None]).log_softmax(dim=0)
        for place in torch.nonzero(mine)[:, 0].tolist():
            for task in range(T):
                if batch.labels[place, task] > 0:
                    loss = loss - logs[of_set.index(int(ids[place])), task]
    objective.scorer.float()
    return loss


@pytest.mark.parametrize("sampled", [5, 1_000])
def test_the_loss_is_its_formula(given: tuple[Encoded, Batch, Tensor, Candidates], sampled: int) -> None:
    objective, count = scoring(sampled), len(given[3].ids)
    drawn = torch.randperm(count, generator=torch.Generator().manual_seed(9))[:sampled]
    objective.draw = lambda candidates: drawn  # type: ignore[method-assign]
    loss = objective(*given)
    assert float(loss.examples) == sum(LIKED) + sum(WATCHED)
    assert loss.total.item() == pytest.approx(total(objective, given, drawn).item(), rel=1e-5)


def test_scorers_learn_and_towers_do_not(given: tuple[Encoded, Batch, Tensor, Candidates]) -> None:
    objective = scoring(6)
    torch.autograd.backward(objective(*given).total)
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in objective.scorer.parameters())
    assert given[0].users.grad is None and given[0].items.grad is None


def test_parts_change_nothing_and_judge_few_pairs_at_a_time(
    given: tuple[Encoded, Batch, Tensor, Candidates], monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = scoring(6)
    sizes: list[int] = []

    def learn() -> tuple[float, list[Tensor]]:
        torch.manual_seed(0)
        objective.zero_grad()
        loss = objective(*given).total
        torch.autograd.backward(loss)
        return loss.item(), [weight.grad.clone() for weight in objective.scorer.parameters()]  # type: ignore[union-attr]

    whole, gradients = learn()
    monkeypatch.setattr(set_scoring, "PAIRS", 2 * 8**2)
    objective.scorer.register_forward_hook(lambda scorer, arguments, scores: sizes.append(scores[..., 0].numel()))
    parts, others = learn()
    assert parts == pytest.approx(whole, rel=1e-5)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert sorted(sizes) == [5 + 6, 5 + 6, 2 * (2 + 6), 2 * (2 + 6)]  # each part twice, the longest set by itself


def test_of_many_positive_items_some_count(given: tuple[Encoded, Batch, Tensor, Candidates]) -> None:
    objective = scoring(2)
    examples = set()
    for seed in range(20):
        torch.manual_seed(seed)
        examples.add(float(objective(*given).examples))
    # Of request 3 two of five items, of which one was taken for both tasks.
    assert examples == {3 + 4 + 2, 3 + 4 + 3}


def test_nothing_taken_is_no_loss_but_a_gradient(given: tuple[Encoded, Batch, Tensor, Candidates]) -> None:
    encoded, batch, ids, candidates = given
    for rows in (slice(None), slice(0, 0)):
        none = make_batch(batch.request[rows].tolist(), torch.zeros_like(batch.labels[rows]).tolist())
        none = none._replace(labels=none.labels.view(-1, T))
        objective = scoring(4)
        loss = objective(encoded._replace(items=encoded.items[rows]), none, ids[rows], candidates)
        torch.autograd.backward(loss.total)
        assert (loss.total.item(), loss.examples.item()) == (0, 0)
        assert all(weight.grad is not None for weight in objective.scorer.parameters())


def test_it_learns_what_the_other_items_of_a_list_say() -> None:
    """People take five items of one kind, and nothing tells which but the list itself."""
    kinds, each, people, rng = 4, 16, 64, np.random.default_rng(0)
    vectors = torch.eye(kinds).repeat_interleave(each, dim=0)
    users = torch.full((people, 1, kinds), kinds**-0.5)
    even = torch.full((len(vectors),), 1 / len(vectors), dtype=torch.float64)
    torch.manual_seed(0)
    scorer = SelfAttention(1, kinds, 0, hidden=16)
    objective = SetScoring(scorer, torch.zeros(len(vectors), 0), even, temperature=1.0, sampled=8)
    optimizer = torch.optim.Adam(scorer.parameters(), lr=0.005)
    losses = []
    for _ in range(300):
        taken = [rng.choice(each, 5, replace=False) + each * rng.integers(kinds) for _ in range(people)]
        ids = torch.from_numpy(np.concatenate(taken))
        encoded = Encoded(users, vectors[ids], torch.zeros(len(ids), 1))
        batch = make_batch(np.repeat(np.arange(people), 5).tolist(), [[1.0]] * len(ids))
        loss = objective(encoded, batch, ids, distinct(ids, vectors[ids]))
        mean = loss.total / loss.examples
        optimizer.zero_grad()
        torch.autograd.backward(mean)
        optimizer.step()
        losses.append(mean.item())
    # Whoever sees one item at a time is left with the logarithm of the set's 13 items, less a few drawn twice.
    assert np.mean(losses[:5]) > 2.4 and np.mean(losses[-20:]) < 2.1
    counts = 2 + 4 * torch.eye(kinds, dtype=torch.int64)
    lists = torch.stack([torch.eye(kinds).repeat_interleave(count, dim=0) for count in counts])
    scores = scorer.eval()(users[:kinds], lists, lists[:, :, :0], torch.ones(lists.shape[:2], dtype=torch.bool))
    best = scores[:, :, 0].argmax(dim=1)
    assert [int(lists[row, place].argmax()) for row, place in enumerate(best)] == list(range(kinds))
