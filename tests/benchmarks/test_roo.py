"""The parts of `silverray bench roo`, on little data with a taste to learn."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from silverray.benchmarks.roo.factorisation import Als, Bpr, sparse_rows
from silverray.benchmarks.roo.recall import Split, Tuned, _set, grid, popularity, splits, tune
from silverray.benchmarks.roo.steps import compare_steps
from silverray.benchmarks.roo.storage import compare_bytes, compare_reading
from silverray.cluster.cli import app
from silverray.cluster.demo import movielens
from silverray.cluster.demo.movielens import Film, MovieLens, Rater
from silverray.cluster.demo.movielens_requests import movielens_format
from silverray.shard.train.items import ItemTable
from silverray.shard.train.loader import LoaderConfig, RequestLoader
from silverray.shard.train.requests import RequestTable
from silverray.shard.train.shapes import Widths

pytestmark = pytest.mark.skipif(importlib.util.find_spec("implicit") is None, reason="needs the extra `bench`")

FILMS, RATERS, RATINGS = 60, 40, 1_200


@pytest.fixture(scope="module")
def data() -> MovieLens:
    """Even raters like even films, odd ones odd films."""
    rng = np.random.default_rng(0)
    films = tuple(Film(n, f"Film {n}", 1990, ("Drama",)) for n in range(1, FILMS + 1))
    raters = tuple(Rater(n, 20 + n, "F", "student") for n in range(1, RATERS + 1))
    who = rng.integers(1, RATERS + 1, RATINGS)
    own = np.array([rng.choice(np.arange(2 - n % 2, FILMS + 1, 2)) for n in who])
    ratings = rng.choice([3, 4, 5], RATINGS, p=[0.1, 0.5, 0.4])
    return MovieLens(films, raters, who, own, ratings, np.sort(rng.integers(0, 6_000, RATINGS)))


@pytest.fixture(scope="module")
def both(data: MovieLens, tmp_path_factory: pytest.TempPathFactory) -> tuple[Split, Split]:
    return splits(data, tmp_path_factory.mktemp("roo"))


@pytest.fixture(scope="module")
def items(both: tuple[Split, Split]) -> ItemTable:
    return ItemTable.from_arrow(pq.read_table(both[1].files.items), "film", {})


def test_the_validation_split_lies_before_the_final_one(data: MovieLens, both: tuple[Split, Split]) -> None:
    times = [pq.read_table(file).column("time").to_numpy() for split in both for file in split.files[1:3]]
    assert times[0].max() < times[1].min() <= times[1].max() < times[3].min()
    assert times[2].max() < times[3].min()
    liked = int((data.ratings >= 4).sum())
    for split, of in zip(both, (liked - len(both[1].liked), liked), strict=True):
        assert abs(len(split.liked) - 0.1 * of) < 3
        assert split.likes.sum() == of - len(split.liked)
        assert split.likes.shape[1] == FILMS
        assert len(split.seen) == len(split.liked)


def test_recall_counts_what_stands_first(both: tuple[Split, Split]) -> None:
    final = both[1]
    right = np.zeros((len(final.liked), FILMS), np.float32)
    right[np.arange(len(final.liked)), final.liked] = 1
    assert final.recall(right) == 1
    assert final.recall(-right) == 0
    assert 0 < popularity(final) < 0.7


@pytest.mark.parametrize("peer", [Als(4, 0.1, 5.0), Bpr(4, 0.05, 0.01)])
def test_factorisations_learn_a_taste(both: tuple[Split, Split], peer: Als | Bpr) -> None:
    # Half of the films are of the wrong kind, so that guessing the kind doubles the recall.
    final = both[1]
    rank = peer.fit(final.likes, 0)
    assert final.recall(rank(final.seen)) > 1.4 * popularity(final)
    assert np.array_equal(rank(final.seen), peer.fit(final.likes, 0)(final.seen))


def test_without_a_history_films_are_ranked_by_likes() -> None:
    likes = sparse_rows([np.array([1, 2]), np.array([1]), np.array([1])], 4)
    empty = [np.array([], int)] * 2
    assert Als(2, 0.1, 1.0).fit(likes, 0)(empty).tolist() == [[0, 3, 1, 0]] * 2
    biased = Bpr(2, 0.1, 0.01).fit(likes, 0)(empty)
    assert (biased[0] == biased[1]).all()
    assert biased[0].argmax() == 1


def test_only_the_latest_likes_count() -> None:
    rows = sparse_rows([np.array([3, 1, 0]), np.array([], int), np.array([2])], 4, latest=2)
    assert rows.toarray().tolist() == [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]


def test_tuning_takes_the_best_of_the_validation_split(both: tuple[Split, Split]) -> None:
    def make(quality: int) -> Any:
        return lambda split, seed: quality / 10 + seed / 100 if split is both[0] else quality / 2 + seed

    found = tune("x", make, grid(quality=(1, 3, 2)), *both, seeds=(5, 6))
    assert found == Tuned("x", {"quality": 3}, 3, 0.35, [6.5, 7.5])
    assert found.row()["mean"] == 7
    assert (found.row()["low"], found.row()["high"], found.row()["settings"]) == (6.5, 7.5, "quality 3")


def test_settings_reach_their_keys() -> None:
    document = {"epochs": 1, "dropout": {"age": 0.5}, "objectives": [{"temperature": 1}, {"task": "x"}]}
    changed = _set(document, {"epochs": 2, "dropout__history": 0.1, "temperature": 0.2})
    assert changed == {
        "epochs": 2,
        "dropout": {"age": 0.5, "history": 0.1},
        "objectives": [{"temperature": 0.2}, {"task": "x"}],
    }


def test_requests_take_fewer_bytes(both: tuple[Split, Split], items: ItemTable, tmp_path: Path) -> None:
    files, format = both[1].files, movielens_format()
    table = RequestTable.open(files.requests, format)
    batches = list(RequestLoader(table, items, LoaderConfig(requests=16)).batches(0))
    rows = {row["what"]: row for row in compare_bytes(files, format, batches, tmp_path)}
    assert rows["whole file"]["requests"] == files.requests.stat().st_size
    assert rows["whole file"]["impressions"] == (tmp_path / "repeated.parquet").stat().st_size
    assert rows["user side in the file"]["requests"] < rows["whole file"]["requests"]
    # A length and a value for age, gender and occupation; a length and the films of a history.
    lengths = map(len, pq.read_table(files.requests).column("history").to_pylist())
    histories = sum(min(length, format.user.history.length) for length in lengths)
    assert rows["user side as tensors, an epoch"]["requests"] == 8 * (7 * len(table) + histories)
    reading = compare_reading(files, format, items, 16, tmp_path, 1)
    assert [row["what"] for row in reading] == ["by impression", "by request"]
    assert reading[0]["times"] > 0


def test_both_ways_have_equal_losses(both: tuple[Split, Split], items: ItemTable) -> None:
    format = movielens_format()
    table = RequestTable.open(both[1].files.requests, format)
    batches = list(RequestLoader(table, items, LoaderConfig(requests=16)).batches(0))
    row = compare_steps(batches, format, items, Widths(dimension=8, hidden=8, ids=8, categories=4), 10)
    assert row["difference"] < 1e-5
    assert row["requests"] == pytest.approx(16)
    assert 0 < row["request_p20"] <= row["request_p50"] <= row["request_p80"]


def test_the_whole_benchmark(data: MovieLens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movielens, "fetch", lambda: tmp_path)
    monkeypatch.setattr(movielens, "load", lambda _: data)
    arguments = ["bench", "roo", "--quick", "--work", str(tmp_path / "work"), "--out", str(tmp_path)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "roo.json").read_text())
    assert document["quick"]
    tables = {table["title"]: table["rows"] for table in document["tables"]}
    assert [row["model"] for row in tables["a step of training"]] == ["as configured", "wide"]
    assert all(row["difference"] < 1e-5 for row in tables["a step of training"])
    assert [row["span_s"] for row in tables["longer requests"]] == [60]
    names = [row["name"] for row in tables["held-out likes"]]
    assert names == ["two-tower", "implicit ALS", "BPR", "most liked"]
    assert all(0 < row["mean"] <= 1 for row in tables["held-out likes"])
    assert document["facts"]["impressions"] == sum(
        map(len, pq.read_table(tmp_path / "work/roo/final/requests.parquet").column("items").to_pylist())
    )
