import pytest
import torch
from torch import Tensor

from silverray.shard.model.towers import ItemTower, UserTower, UserTowerShape


@pytest.fixture
def tower() -> UserTower:
    torch.manual_seed(0)
    return UserTower(UserTowerShape(items=9, categories=(3, 4), width=8, hidden=16, dimension=5, tasks=2)).eval()


def encode(tower: UserTower, history: list[list[int]], categories: list[list[int]]) -> Tensor:
    with torch.inference_mode():
        vectors: Tensor = tower(torch.tensor(history), torch.tensor(categories))
    return vectors


def test_user_vectors_have_one_unit_vector_a_task(tower: UserTower) -> None:
    vectors = encode(tower, [[1, 2, 0], [0, 0, 0], [9, 9, 9]], [[0, 0], [2, 3], [1, 1]])
    assert vectors.shape == (3, 2, 5)
    torch.testing.assert_close(vectors.norm(dim=2), torch.ones(3, 2))
    assert not torch.allclose(vectors[:, 0], vectors[:, 1])


def test_padding_and_order_of_a_history_do_not_matter(tower: UserTower) -> None:
    short = encode(tower, [[3, 7]], [[1, 2]])
    torch.testing.assert_close(encode(tower, [[7, 0, 0, 3, 0]], [[1, 2]]), short)
    assert not torch.allclose(encode(tower, [[3, 6]], [[1, 2]]), short)


def test_a_user_does_not_depend_on_the_batch(tower: UserTower) -> None:
    users = [[1, 2, 0], [4, 0, 0], [5, 6, 7]]
    together = encode(tower, users, [[0, 1], [1, 2], [2, 3]])
    alone = encode(tower, users[1:2], [[1, 2]])
    torch.testing.assert_close(together[1:2], alone, rtol=0, atol=1e-6)


def test_user_tower_exports_for_any_batch(tower: UserTower) -> None:
    batch = torch.export.Dim("batch", min=2, max=64)
    example = torch.ones(4, 6, dtype=torch.int64), torch.ones(4, 2, dtype=torch.int64)
    exported = torch.export.export(tower, example, dynamic_shapes={"history": {0: batch}, "categories": {0: batch}})
    history, categories = torch.tensor([[1, 2, 3, 0, 0, 0]] * 7), torch.tensor([[2, 1]] * 7)
    torch.testing.assert_close(exported.module()(history, categories), tower(history, categories))


def test_item_vectors_are_unit_and_tell_items_apart_by_each_input() -> None:
    torch.manual_seed(0)
    tower = ItemTower(4, 6, (5,), width=8, hidden=16, dimension=5).eval()
    items, tags = torch.tensor([0, 1, 0, 0]), torch.tensor([[1, 2], [1, 2], [1, 3], [1, 2]])
    vectors = tower(items, tags, torch.tensor([[1], [1], [1], [0]]))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    assert all(not torch.allclose(vectors[0], other) for other in vectors[1:])
