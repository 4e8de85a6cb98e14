"""MovieLens as requests: sessions, histories without a look ahead, and likes that are held out."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from silverray.cluster.demo.movielens import Film, MovieLens, Rater, films_table
from silverray.cluster.demo.movielens_requests import movielens_format, write_requests
from silverray.shard.schema.user_features import CategoryFeature
from silverray.shard.train.items import ItemTable
from silverray.shard.train.loader import LoaderConfig, RequestLoader
from silverray.shard.train.requests import RequestTable

RATERS = (Rater(3, 17, "F", "student"), Rater(8, 60, "M", "writer"))
FILMS = tuple(Film(n, f"Film {n}", 1990 + n, ("Drama",)) for n in range(1, 13))
# rater, film, rating, time
RATINGS = [
    (3, 1, 5, 0),
    (3, 2, 3, 10),
    (8, 1, 4, 20),
    (3, 3, 4, 99),
    (3, 4, 5, 100),
    (8, 5, 5, 150),
    (3, 5, 1, 160),
    (3, 6, 4, 400),
    (8, 7, 4, 400),
    (8, 8, 2, 410),
    (8, 9, 5, 420),
]


def ratings(rows: list[tuple[int, int, int, int]]) -> MovieLens:
    return MovieLens(FILMS, RATERS, *np.ascontiguousarray(np.array(rows, dtype=np.int64).T))


def test_sessions_know_what_was_liked_before_them(tmp_path: Path) -> None:
    files = write_requests(ratings(RATINGS), tmp_path, held_out=0.3, span_s=100)
    assert pq.read_table(files.requests).to_pylist() == [
        {
            "request": number,
            "user": user,
            "time": time,
            "history": history,
            "age": 17.0 if user == 3 else 60.0,
            "gender": "F" if user == 3 else "M",
            "occupation": "student" if user == 3 else "writer",
            "items": items,
            "liked": liked,
            "watched": [1.0] * len(items),
        }
        for number, (user, time, history, items, liked) in enumerate(
            [
                (3, 0, [], [1, 2, 3], [1, 0, 1]),
                (8, 20, [], [1], [1]),
                (3, 100, [1, 3], [4, 5], [1, 0]),
                (8, 150, [1], [5], [1]),
            ]
        )
    ]
    assert pq.read_table(files.items).equals(films_table(ratings(RATINGS)))
    assert len(pq.read_table(files.impressions)) == 7


def test_held_out_likes_know_everything_before_them(tmp_path: Path) -> None:
    files = write_requests(ratings(RATINGS), tmp_path, held_out=0.3, span_s=100)
    found = pq.read_table(files.held_out, columns=["user", "time", "history", "items", "liked"]).to_pylist()
    # The fifth of eight likes is at 400, and so is the sixth.
    assert [tuple(row.values()) for row in found] == [
        (3, 400, [1, 3, 4], [6], [1.0]),
        (8, 400, [1, 5], [7], [1.0]),
        (8, 420, [1, 5, 7], [9], [1.0]),
    ]


def test_long_histories_are_cut_for_training_only(tmp_path: Path) -> None:
    many = [(3, 1 + n % 12, 5, n) for n in range(100)]
    files = write_requests(ratings(many), tmp_path, held_out=0.2, span_s=1)
    lengths = [len(own) for own in pq.read_table(files.requests).column("history").to_pylist()]
    assert max(lengths) == 50
    assert pq.read_table(files.held_out).column("history").to_pylist()[-1] == [1 + n % 12 for n in range(99)]


def test_the_files_are_loaded(tmp_path: Path) -> None:
    files, format = write_requests(ratings(RATINGS), tmp_path, held_out=0.3, span_s=100), movielens_format()
    items = ItemTable.from_arrow(pq.read_table(files.items), "film", {})
    (batch,) = RequestLoader(
        RequestTable.open(files.requests, format), items, LoaderConfig(requests=9, shuffle_window=1)
    ).batches(0)
    assert batch.request.tolist() == [0, 0, 0, 1, 2, 2, 3]
    assert batch.items["item"].values().tolist() == [1, 2, 3, 1, 4, 5, 5]
    assert batch.labels[:, 0].tolist() == [1, 0, 1, 1, 1, 0, 1]
    assert batch.user["history"].lengths().tolist() == [0, 0, 2, 1]
    assert batch.user["age"].values().tolist() == [1, 7, 1, 7]
    occupations = format.user.categories["occupation"]
    assert isinstance(occupations, CategoryFeature)
    assert batch.user["occupation"].values().tolist() == [occupations.code("student"), occupations.code("writer")] * 2


def test_something_must_be_left(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="held_out: expected some likes before"):
        write_requests(ratings([(3, 1, 5, 7), (8, 2, 5, 7)]), tmp_path, held_out=0.5)
