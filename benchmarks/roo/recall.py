"""How well a trained two-tower finds held-out likes, beside matrix factorisations tuned on the same data.

Settings are chosen on a validation split, whose held-out likes are those just before the real ones. Every contender
then learns from all that comes before the held-out likes, with several seeds. Candidates are all films but those that
the user had liked before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from silverray.benchmarks.roo.factorisation import Als, Bpr, Histories, Sparse, sparse_rows
from silverray.benchmarks.roo.steps import THREADS
from silverray.cluster.demo.movielens import MovieLens
from silverray.cluster.demo.movielens_requests import (
    HELD_OUT,
    RequestFiles,
    movielens_format,
    split_time,
    write_requests,
)
from silverray.cluster.training.config import TrainConfig
from silverray.cluster.training.run import train
from silverray.shard.schema.casts import one_array
from silverray.shard.towers.ids import Vocabulary
from silverray.shard.train.evaluation import read_likes
from silverray.shard.train.format import ITEMS, USER
from silverray.shard.train.items import ItemTable
from silverray.shard.train.recall import popularity_recall_at, recall_at
from silverray.shard.train.requests import RequestTable
from silverray.shard.train.workers import Alone

PLACES = 20
"""The demo's (`configs/movielens-train.yaml`): a page of recommendations, 1.2 % of the films."""
TASK = "liked"


class Split(NamedTuple):
    """Requests to learn from and likes to find, U users and N films.

    Attributes:
        files: the request tables.
        likes: `[U, N]` sparse, what to learn from.
        seen: what the user had liked before each held-out like, films oldest first.
        liked: `[n]` int64, the film of each held-out like.
    """

    files: RequestFiles
    likes: Sparse
    seen: Histories
    liked: NDArray[np.int64]

    @classmethod
    def of(cls, files: RequestFiles) -> Split:
        """Read request tables."""
        films = pq.read_table(files.items).column("film").to_numpy()
        table = RequestTable.open(files.held_out, movielens_format())
        found = list(read_likes(table, ItemTable(films, {}, {}), films, table.format.tasks.index(TASK)))
        seen = [own for some in found for own in some.seen]
        return cls(
            files,
            _likes(files.requests, films),
            seen,
            np.concatenate([some.liked for some in found]),
        )

    def recall(self, scores: NDArray[np.float32]) -> float:
        """Fraction of the held-out likes that scores (`[n, N]`) put among the first `PLACES`."""
        return recall_at(PLACES, scores, self.liked, self.seen)


Contender = Callable[[Split, int], float]
"""Learns from a split with a seed, and gives its recall."""


class Tuned(NamedTuple):
    """A contender with the settings that did best on the validation split.

    Attributes:
        name: of the contender.
        settings: what was chosen.
        tried: how many settings were compared.
        validation: recall of the chosen ones there.
        recalls: recall of the held-out likes for each seed.
    """

    name: str
    settings: dict[str, Any]
    tried: int
    validation: float
    recalls: list[float]

    def row(self) -> dict[str, Any]:
        """As a table's row."""
        told = (
            "as configured"
            if not self.settings
            else ", ".join(f"{name} {value}" for name, value in self.settings.items())
        )
        spread = {"mean": float(np.mean(self.recalls)), "low": min(self.recalls), "high": max(self.recalls)}
        return {**self._asdict(), "settings": told, **spread}


def splits(data: MovieLens, folder: Path) -> tuple[Split, Split]:
    """The validation split and the one to report, in this order."""
    final = write_requests(data, folder / "final", held_out=HELD_OUT)
    rows = data.times < split_time(data, HELD_OUT)
    arrays = {name: getattr(data, name)[rows] for name in ("rater_ids", "film_ids", "ratings", "times")}
    earlier = write_requests(replace(data, **arrays), folder / "validation", held_out=HELD_OUT)
    return Split.of(earlier), Split.of(final)


def tune(
    name: str,
    make: Callable[..., Contender],
    grid: Iterable[dict[str, Any]],
    validation: Split,
    final: Split,
    seeds: Sequence[int],
) -> Tuned:
    """Choose the settings that do best on the validation split, and use them on the final one."""
    tried = [(make(**settings)(validation, seeds[0]), settings) for settings in grid]
    best, settings = max(tried, key=lambda pair: pair[0])
    contender = make(**settings)
    return Tuned(name, settings, len(tried), best, [contender(final, seed) for seed in seeds])


def popularity(split: Split) -> float:
    """Recall of films by how often they were liked, the same for everyone."""
    counts = np.asarray(split.likes.sum(axis=0)).ravel().astype(np.int64)
    return popularity_recall_at(PLACES, counts, split.liked, split.seen)


def als(**settings: Any) -> Contender:
    """Implicit ALS."""
    return lambda split, seed: split.recall(Als(**settings).fit(split.likes, seed)(split.seen))


def bpr(**settings: Any) -> Contender:
    """BPR."""
    return lambda split, seed: split.recall(Bpr(**settings).fit(split.likes, seed)(split.seen))


def two_tower(config: TrainConfig, out: Path) -> Callable[..., Contender]:
    """The towers of a configuration, with other data and some other settings."""

    def make(**settings: Any) -> Contender:
        def contender(split: Split, seed: int) -> float:
            files = split.files
            document = config.model_dump() | {
                "requests": [files.requests],
                "held_out": files.held_out,
                "items": config.items.model_dump() | {"file": files.items},
                "recall": {"task": TASK, "places": PLACES},
                "out": out,
                "seed": seed,
                "workers": 1,
                "threads": THREADS,
            }
            trained = train(TrainConfig.model_validate(_set(document, settings)), Alone(), lambda _: None, resume=False)
            assert trained.recall is not None
            return trained.recall.model

        return contender

    return make


def grid(**values: Sequence[Any]) -> list[dict[str, Any]]:
    """Every combination of some values."""
    return [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]


def _set(document: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """A document with some keys replaced; `a__b` is key b of section a, and `temperature` is of all objectives."""
    for name, value in settings.items():
        head, _, tail = name.partition("__")
        if name == "temperature":
            for objective in document["objectives"]:
                if "temperature" in objective:
                    objective["temperature"] = value
        else:
            document = document | {head: document[head] | {tail: value} if tail else value}
    return document


def _likes(requests: Path, films: NDArray[np.int64]) -> Sparse:
    table = pq.read_table(requests, columns=[USER, ITEMS, TASK])
    items = one_array(table.column(ITEMS))
    liked = one_array(table.column(TASK)).flatten().to_numpy() > 0
    lengths = items.value_lengths().to_numpy()
    users = np.repeat(table.column(USER).to_numpy(), lengths)[liked]
    shown = Vocabulary(films).rows(items.flatten().to_numpy())[liked] - 1
    return sparse_rows([shown[users == user] for user in np.unique(users)], len(films))
