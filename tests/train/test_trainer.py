"""Training runs: what is learned, stopping and continuing, and what is refused."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor
from two_tastes import FORMAT, ITEMS, KEYS, items, requests_table

from silverray.shard.towers.tables import keyed_jagged
from silverray.shard.train.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from silverray.shard.train.counts import ItemCounts
from silverray.shard.train.evaluation import item_vectors, measure_recall, read_likes
from silverray.shard.train.loader import LoaderConfig, RequestLoader
from silverray.shard.train.objectives import BinaryCrossEntropy, SampledSoftmax
from silverray.shard.train.requests import RequestTable
from silverray.shard.train.shapes import Widths, make_towers
from silverray.shard.train.trainer import Recipe, Trainer

RECIPE = Recipe(epochs=2, learning_rate=0.01, weight_decay=0.01, dropout={"seen": 0.2}, weights={"bce": 0.1}, seed=0)


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> RequestLoader:
    file = tmp_path_factory.mktemp("requests") / "requests.parquet"
    pq.write_table(requests_table(300, seed=4), file, row_group_size=100)
    table = RequestTable.open(file, FORMAT)
    return RequestLoader(table, items(), LoaderConfig(requests=64, shuffle_window=50))


def make_trainer(loader: RequestLoader, **changes: Any) -> Trainer:
    counts = ItemCounts.of(loader.batches(0), ITEMS + 1, 2)
    torch.manual_seed(7)
    model = make_towers(FORMAT, items(), Widths(dimension=16, hidden=32, ids=16))
    objectives = {"softmax": SampledSoftmax(0, 0.1, counts.shares), "bce": BinaryCrossEntropy(1)}
    return Trainer(model, objectives, loader.batches, replace(RECIPE, **changes))


def weights(trainer: Trainer) -> Mapping[str, Tensor]:
    found: Mapping[str, Tensor] = trainer.state()["joint"]
    return found


def same(one: Trainer, other: Trainer) -> bool:
    return all(torch.equal(weight, weights(other)[name]) for name, weight in weights(one).items())


def test_a_model_learns_which_half_of_the_catalog_a_user_likes(loader: RequestLoader, tmp_path: Path) -> None:
    trainer = make_trainer(loader, epochs=8)
    steps = list(trainer.steps())
    assert [(step.number, step.epoch, step.position) for step in steps[4:6]] == [(5, 0, 300), (6, 1, 64)]
    assert steps[-1].number == 40
    assert steps[-1].losses["softmax"] < 0.9 * steps[0].losses["softmax"]
    assert steps[-1].losses["bce"] < steps[0].losses["bce"]
    file = tmp_path / "later.parquet"
    pq.write_table(requests_table(60, seed=5), file)
    likes = read_likes(RequestTable.open(file, FORMAT), loader.items, KEYS, 0)
    vectors = item_vectors(trainer.model.items, loader.items, KEYS)
    assert vectors.shape == (ITEMS, 16)
    recall = measure_recall(trainer.model.users, vectors, likes, np.arange(ITEMS), 0, 10)
    # Who knows the half finds 10 of about 45, who knows nothing 10 of about 95.
    assert recall.likes == 180
    assert recall.model > 0.15 > recall.popularity > 0.05


def test_training_is_deterministic_and_leaves_the_random_state_alone(loader: RequestLoader) -> None:
    one, other, seeded = make_trainer(loader), make_trainer(loader), make_trainer(loader, seed=1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = [step.losses for step in one.steps()]
    assert torch.equal(torch.rand(3), expected)
    assert first == [step.losses for step in other.steps()]
    assert same(one, other)
    list(seeded.steps())
    assert not same(one, seeded)


def test_a_run_that_stops_at_any_step_goes_on_as_if_it_had_not(loader: RequestLoader, tmp_path: Path) -> None:
    whole = make_trainer(loader)
    losses = [step.losses for step in whole.steps()]
    assert len(losses) == 10
    for stop in range(len(losses) + 1):
        first = make_trainer(loader)
        steps = first.steps()
        for _ in range(stop):
            next(steps)
        save_checkpoint(tmp_path, first.state())
        second = make_trainer(loader)
        second.restore(load_checkpoint(tmp_path))
        assert [step.losses for step in second.steps()] == losses[stop:]
        assert same(whole, second), stop


def test_a_checkpoint_of_another_model_is_refused(loader: RequestLoader, tmp_path: Path) -> None:
    trainer = make_trainer(loader)
    save_checkpoint(tmp_path, {**trainer.state(), "joint": {}})
    with pytest.raises(CheckpointError, match="checkpoint: expected one of this model, got another"):
        trainer.restore(load_checkpoint(tmp_path))
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:1_000])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: not a readable checkpoint"):
        load_checkpoint(tmp_path)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: not a readable checkpoint"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("wrong", [-1, ITEMS + 1])
def test_ids_out_of_range_are_refused_by_name(loader: RequestLoader, wrong: int) -> None:
    trainer = make_trainer(loader)
    before = {name: weight.clone() for name, weight in weights(trainer).items()}
    batch = next(loader.batches(0))
    seen = batch.user["seen"].values().clone()
    seen[3] = wrong
    user = keyed_jagged(
        {"seen": (seen, batch.user["seen"].lengths()), "age": (batch.user["age"].values(), batch.user["age"].lengths())}
    )
    other = Trainer(trainer.model, {"bce": BinaryCrossEntropy(0)}, lambda *_: [batch._replace(user=user)], RECIPE)
    with pytest.raises(ValueError, match=rf"seen: expected rows 0 to 100 of table 'user-seen', got {wrong}"):
        next(other.steps())
    assert all(torch.equal(weight, before[name]) for name, weight in weights(trainer).items())


def test_no_batch_is_an_error(loader: RequestLoader) -> None:
    trainer = Trainer(make_trainer(loader).model, {"bce": BinaryCrossEntropy(0)}, lambda *_: [], RECIPE)
    with pytest.raises(ValueError, match="batches: expected at least one in epoch 0, got none"):
        next(trainer.steps())


def test_items_are_counted(loader: RequestLoader) -> None:
    counts = ItemCounts.of(loader.batches(0), ITEMS + 1, 2)
    table = requests_table(300, seed=4)
    shown = np.concatenate(table.column("items").to_pylist()) // 10 + 1
    liked = np.concatenate(table.column("liked").to_pylist()) > 0
    assert counts.shown.tolist() == np.bincount(shown, minlength=ITEMS + 1).tolist()
    assert counts.positive[:, 0].tolist() == np.bincount(shown[liked], minlength=ITEMS + 1).tolist()
    assert float(counts.shares.sum()) == pytest.approx(1)
