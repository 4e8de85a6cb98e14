from dataclasses import replace

import numpy as np
import pytest
import torch

from silverray.shard.train.interactions import Interactions, padded_histories
from silverray.shard.train.recall import popularity_recall_at, recall_at
from silverray.shard.train.trainer import TrainingConfig, TrainingData, train

CONFIG = TrainingConfig(dimension=16, epochs=8, batch=256, held_out=0.2)


def two_tastes() -> TrainingData:
    """300 users who like items of one half of the catalog only: by history alone one can tell which half."""
    generator = np.random.default_rng(0)
    n, users, items = 6_000, 300, 200
    user = generator.integers(0, users, n)
    item = generator.integers(0, items // 2, n) + (user % 2) * (items // 2)
    return TrainingData(
        interactions=Interactions(user, item, np.arange(n)),
        user_categories=np.zeros((users, 1), np.int64),
        user_category_sizes=(2,),
        item_tags=np.zeros((items, 1), np.int64),
        tag_size=2,
        item_categories=np.zeros((items, 1), np.int64),
        item_category_sizes=(1,),
    )


def test_training_beats_popularity() -> None:
    result = train(two_tastes(), CONFIG)
    assert (result.trained, result.held_out) == (4_800, 1_200)
    # Knowing the half is worth a factor of two: 20 of 100 items against 20 of 200.
    assert result.recall > 1.5 * result.popularity_recall
    assert result.recall > 0.15
    np.testing.assert_allclose(np.linalg.norm(result.item_vectors, axis=1), 1, atol=1e-5)


def test_training_is_deterministic_and_leaves_the_random_state_alone() -> None:
    data, config = two_tastes(), replace(CONFIG, epochs=1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    steps: list[tuple[int, int]] = []
    first = train(data, config, lambda done, total: steps.append((done, total)))
    assert torch.equal(torch.rand(3), expected)
    second, other = train(data, config), train(data, replace(config, seed=1))
    assert np.array_equal(first.item_vectors, second.item_vectors)
    assert first.recall == second.recall
    assert not np.array_equal(first.item_vectors, other.item_vectors)
    assert steps == [(step, 19) for step in range(1, 20)]


def test_held_out_likes_are_not_trained_on() -> None:
    data, config = two_tastes(), replace(CONFIG, epochs=1)
    likes = data.interactions
    changed = likes.items.copy()
    changed[4_800:] = 0
    other = replace(data, interactions=Interactions(likes.users, changed, likes.times))
    assert np.array_equal(train(data, config).item_vectors, train(other, config).item_vectors)


def test_nothing_to_train_on_is_an_error() -> None:
    likes = Interactions(np.array([0, 1]), np.array([0, 1]), np.array([7, 7]))
    with pytest.raises(ValueError, match="some likes before"):
        train(replace(two_tastes(), interactions=likes), CONFIG)


def test_earlier_is_strictly_earlier_and_of_the_same_user() -> None:
    likes = Interactions(
        users=np.array([1, 0, 1, 1, 0, 1]),
        items=np.array([10, 20, 11, 12, 21, 13]),
        times=np.array([1, 1, 2, 2, 3, 4]),
    )
    earlier = likes.earlier()
    assert [items.tolist() for items in earlier] == [[], [], [10], [10], [20], [10, 11, 12]]
    assert padded_histories(earlier, 2)[3:].tolist() == [[11, 0], [21, 0], [12, 13]]


@pytest.mark.parametrize(("held_out", "row"), [(0.5, 1), (0.2, 4), (0.01, 4), (1.0, 0)])
def test_a_split_keeps_equal_times_together(held_out: float, row: int) -> None:
    zeros = np.zeros(5, np.int64)
    assert Interactions(zeros, zeros, np.array([1, 2, 2, 2, 3])).split_row(held_out) == row


def test_interactions_must_be_in_order() -> None:
    zeros = np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="ascending"):
        Interactions(zeros, zeros, np.array([2, 1]))


def test_recall_counts_places_among_unseen_items() -> None:
    scores = np.array([[9, 8, 7, 6]] * 3, np.float32)
    liked, nothing = np.array([0, 1, 2]), np.array([], np.int64)
    assert recall_at(1, scores, liked, [nothing] * 3) == pytest.approx(1 / 3)
    assert recall_at(1, scores, liked, [nothing, np.array([0]), np.array([0, 1])]) == 1.0
    assert recall_at(2, np.zeros((3, 4), np.float32), liked, [nothing] * 3) == pytest.approx(2 / 3)
    assert popularity_recall_at(2, np.array([1, 5, 3, 0]), liked, [nothing] * 3) == pytest.approx(2 / 3)
