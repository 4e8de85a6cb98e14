from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor

from silverray.shard.towers.table import Table
from silverray.shard.towers.tables import keyed_jagged
from silverray.shard.towers.towers import DenseLayers, ItemTower, TowerShape, UserTower

SHAPE = TowerShape(
    (
        Table("user-seen", 10, 8, ("seen",), "mean"),
        Table("user-age", 3, 4, ("age",), "mean"),
        Table("user-place", 4, 4, ("home", "work"), "sum"),
    ),
    hidden=16,
    dimension=5,
    tasks=2,
)


def features(**columns: list[list[int]]) -> KeyedJaggedTensor:
    return keyed_jagged(
        {
            name: (torch.tensor([i for ids in lists for i in ids], dtype=torch.long), torch.tensor([*map(len, lists)]))
            for name, lists in columns.items()
        }
    )


def users(seen: list[list[int]], age: list[int]) -> KeyedJaggedTensor:
    ones = [[1]] * len(seen)
    return features(seen=seen, age=[[code] for code in age], home=ones, work=ones)


@pytest.fixture
def tower() -> UserTower:
    torch.manual_seed(0)
    return UserTower(SHAPE).eval()


def encode(tower: UserTower, seen: list[list[int]], age: list[int]) -> Tensor:
    with torch.inference_mode():
        vectors: Tensor = tower(users(seen, age))
    return vectors


def test_user_vectors_have_one_unit_vector_a_task(tower: UserTower) -> None:
    vectors = encode(tower, [[1, 2], [], [9, 9, 9]], [0, 2, 1])
    assert vectors.shape == (3, 2, 5)
    torch.testing.assert_close(vectors.norm(dim=2), torch.ones(3, 2))
    assert not torch.allclose(vectors[:, 0], vectors[:, 1])


def test_the_order_of_a_history_does_not_matter_but_its_items_and_the_categories_do(tower: UserTower) -> None:
    vectors = encode(tower, [[3, 7], [7, 3], [3, 6], [3, 7]], [1, 1, 1, 2])
    torch.testing.assert_close(vectors[1], vectors[0])
    assert not torch.allclose(vectors[2], vectors[0])
    assert not torch.allclose(vectors[3], vectors[0])


def test_a_user_does_not_depend_on_the_batch(tower: UserTower) -> None:
    together = encode(tower, [[1, 2], [4], [5, 6, 7]], [0, 1, 2])
    torch.testing.assert_close(together[1:2], encode(tower, [[4]], [1]), rtol=0, atol=1e-6)


def test_looking_up_and_dense_layers_are_the_tower(tower: UserTower) -> None:
    batch = users([[1, 2], []], [0, 2])
    weight = {name: bag.weight for name, bag in tower.embeddings.embedding_bags.items()}
    place = weight["user-place"][1]
    seen = torch.stack([weight["user-seen"][[1, 2]].mean(0), torch.zeros(8)])
    age = weight["user-age"][[0, 2]]
    pooled = torch.cat([seen, age, place.expand(2, -1), place.expand(2, -1)], dim=1)
    assert SHAPE.features == ("seen", "age", "home", "work")
    assert SHAPE.width == pooled.shape[1] == 20
    torch.testing.assert_close(tower.encode(pooled), tower(batch))


def test_heads_can_be_left_out(tower: UserTower) -> None:
    pooled = torch.randn(3, SHAPE.width)
    both = tower.encode(pooled)
    for tasks in ([0], [1], [1, 0]):
        layers = DenseLayers(replace(SHAPE, tasks=len(tasks)))
        layers.load_state_dict(tower.layers.state_of(tasks))
        torch.testing.assert_close(layers(pooled), both[:, tasks])


def test_dense_layers_export_for_any_batch(tower: UserTower) -> None:
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(tower.layers, (torch.randn(4, 20),), dynamic_shapes={"pooled": {0: batch}})
    pooled = torch.randn(7, 20)
    torch.testing.assert_close(exported.module()(pooled), tower.layers(pooled))


def test_item_vectors_are_unit_and_tell_items_apart_by_each_input() -> None:
    torch.manual_seed(0)
    tables = (Table("item", 5, 8, ("item",), "mean"), Table("tags", 6, 4, ("tags",), "mean"))
    tower = ItemTower(TowerShape(tables, hidden=16, dimension=5))
    vectors = tower(features(item=[[1], [2], [1], [1]], tags=[[1, 2], [1, 2], [1, 3], []]))
    assert vectors.shape == (4, 5)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    assert all(not torch.allclose(vectors[0], other) for other in vectors[1:])


def test_what_is_no_tower_is_refused() -> None:
    with pytest.raises(ValueError, match="tasks: expected 1 for items, got 2"):
        ItemTower(SHAPE)
    with pytest.raises(ValueError, match="every feature in one table, got seen, seen"):
        TowerShape((SHAPE.tables[0], replace(SHAPE.tables[0], name="other")))
