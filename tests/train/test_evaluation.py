"""Held-out likes: what is asked, what is no candidate, and what does not count."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from silverray.shard.towers.ids import HashedIds
from silverray.shard.towers.jagged import Jagged
from silverray.shard.train.evaluation import Likes, measure_recall, read_likes
from silverray.shard.train.format import RequestFormat
from silverray.shard.train.items import ItemTable
from silverray.shard.train.recall import popularity_recall_at, recall_at
from silverray.shard.train.requests import RequestTable

FORMAT = RequestFormat.parse("{tasks: [shown, liked], user: {seen: {type: history, ids: int, length: 2}}}")
KEYS = np.array([10, 20, 30, 40])


def likes(folder: Path, ids: HashedIds | None = None) -> Likes:
    rows = {
        "request": [1, 2, 3],
        "time": [1, 2, 3],
        "seen": [[10, 20, 77, 30], [], [40]],
        "items": [[10, 40], [99, 20], [30]],
        "shown": [[1.0, 1.0], [1.0, 1.0], [1.0]],
        "liked": [[0.0, 1.0], [1.0, 1.0], [0.0]],
    }
    pq.write_table(pa.table(rows, schema=FORMAT.request_schema()), folder / "later.parquet")
    items = ItemTable.from_arrow(pa.table({"id": KEYS}), "id", {}, ids=ids)
    (found,) = read_likes(RequestTable.open(folder / "later.parquet", FORMAT), items, KEYS, 1)
    return found


def test_likes_know_the_latest_of_a_history_and_leave_out_all_of_it(tmp_path: Path) -> None:
    found = likes(tmp_path)
    # 99 is not in the catalog, 77 neither.
    assert found.liked.tolist() == [3, 1]
    assert found.request.tolist() == [0, 1]
    assert [rows.tolist() for rows in found.seen] == [[0, 1, 2], []]
    history = found.users["seen"]
    assert [part.tolist() for part in np.split(history.values, history.offsets[1:-1])] == [[2, 3], [], [4]]


def test_likes_of_a_model_with_hashed_ids(tmp_path: Path) -> None:
    hashed = HashedIds(50)
    history = likes(tmp_path, hashed).users["seen"]
    assert history.values.tolist() == [*hashed.rows(np.array([20, 30])), *hashed.rows(np.array([40]))]


def test_recall_is_that_of_all_likes(tmp_path: Path) -> None:
    def some(liked: list[int], seen: list[list[int]]) -> Likes:
        users = {"seen": Jagged.of_ones(np.arange(len(liked)))}
        rows = [np.array(own, dtype=np.int64) for own in seen]
        return Likes(users, np.arange(len(liked)), np.array(liked), rows)

    class Tower(torch.nn.Module):
        """Everybody's scores are 4, 3, 2, 1."""

        def forward(self, features: object) -> torch.Tensor:
            return torch.ones(len(features["seen"].lengths()), 1, 1)  # type: ignore[index]

    blocks = [some([0, 1, 3], [[], [], []]), some([], []), some([3], [[0, 1, 2]])]
    vectors = torch.tensor([[4.0], [3.0], [2.0], [1.0]])
    found = measure_recall(Tower(), vectors, iter(blocks), np.array([0, 0, 0, 9]), 0, 1)  # type: ignore[arg-type]
    assert found.likes == 4
    assert found.model == pytest.approx(2 / 4)
    assert found.popularity == pytest.approx(2 / 4)


def test_recall_counts_places_among_unseen_items() -> None:
    scores = np.array([[9, 8, 7, 6]] * 3, np.float32)
    liked, nothing = np.array([0, 1, 2]), np.array([], np.int64)
    assert recall_at(1, scores, liked, [nothing] * 3) == pytest.approx(1 / 3)
    assert recall_at(1, scores, liked, [nothing, np.array([0]), np.array([0, 1])]) == 1.0
    assert recall_at(2, np.zeros((3, 4), np.float32), liked, [nothing] * 3) == pytest.approx(2 / 3)
    assert popularity_recall_at(2, np.array([1, 5, 3, 0]), liked, [nothing] * 3) == pytest.approx(2 / 3)
