"""Learned scorers on top of a two-tower, and ranking of given items from the item cache: `silverray bench ranking`.

MovieLens 100K, tasks `liked` and `watched`. The towers and all scorers learn together from the ratings before the
held-out time. Every scorer then ranks the same candidates: of each task the best by inner product, of films that the
user had not liked before. For self-attention these are the list that it judges as a whole.

Searches are timed in process, without an event loop, so that what differs is the scorer alone: embedded search runs the
same re-ranking stage as a router does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silverray.benchmarks.common.machine import THREADS, with_threads
from silverray.benchmarks.common.measure import interleave
from silverray.benchmarks.common.report import Report
from silverray.cluster.commands.item_files import read_items
from silverray.cluster.demo import movielens
from silverray.cluster.demo.movielens_requests import HELD_OUT, write_held_out_ratings, write_requests
from silverray.cluster.training.config import ScorerConfig, TrainConfig
from silverray.cluster.training.run import RunData
from silverray.cluster.training.scorer import make_scoring, save_scorer
from silverray.kernels.topk import top_k
from silverray.kernels.union import United, unite
from silverray.shard.api import SearchRequest
from silverray.shard.engine.rerank import WINDOW
from silverray.shard.local import LocalSearcher
from silverray.shard.model.scorers import DotProduct, Scorer
from silverray.shard.publish.builder import publish
from silverray.shard.schema.schema import Schema
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.towers.encoder import save_model
from silverray.shard.towers.jagged import features_of
from silverray.shard.towers.two_tower import TwoTower
from silverray.shard.train.counts import ItemCounts
from silverray.shard.train.evaluation import Likes, item_vectors, read_likes
from silverray.shard.train.loader import LoaderConfig, RequestLoader
from silverray.shard.train.objectives import SampledSoftmax
from silverray.shard.train.requests import RequestTable
from silverray.shard.train.scoring import Scoring
from silverray.shard.train.shapes import Widths, make_towers
from silverray.shard.train.trainer import Recipe, Trainer

TITLE = "Learned scorers on MovieLens 100K"
CONFIG, SCHEMA = "movielens-train.yaml", "movielens-schema.yaml"
SEEDS = (0, 1, 2)
"""The least and greatest of three say how far a difference can be believed."""
PLACES = (20, 100)
"""A screen, and the k of the speeds."""
CANDIDATES = 250
"""Of each task, as many as a search for up to 62 items ranks."""
GIVEN = 1_000
"""Of 1,682 films; so many that the work on items is timed and not what a request costs anyway."""
ASKING = 16
"""Users who have given items ranked, one after another, so that no single one stays in a cache."""
BATCH = 64
"""The largest that a router sends by default."""
SCORERS = {
    "two-tower": None,
    "+ MLP": ScorerConfig(kind="mlp"),
    "+ mixture of logits": ScorerConfig(kind="mixture_of_logits"),
    "+ self-attention": ScorerConfig(kind="self_attention", sampled=64),
}
WIDE = Widths(dimension=64, hidden=1_024, ids=256, categories=64)

RECALL = {
    "scorer": "{scorer}",
    "task": "{task}",
    "recall@20": "{mean20:.4f}",
    "lowest": "{low20:.4f}",
    "highest": "{high20:.4f}",
    "recall@100": "{mean100:.4f}",
    "likes or ratings to find": "{found:,}",
}
SPEED = {
    "scorer": "{scorer}",
    "requests/s": "{qps_p50:,.0f}",
    "p20": "{qps_p20:,.0f}",
    "p80": "{qps_p80:,.0f}",
    "of the towers alone": "{share:.2f}",
}
GIVEN_ITEMS = {
    "how": "{how}",
    "ms a user": "{ms_p50:.3f}",
    "p20": "{ms_p20:.3f}",
    "p80": "{ms_p80:.3f}",
    "times as long": "{times:.1f}",
}


class Learned(NamedTuple):
    """What a seed has learned: towers, scorers with their objectives, and the vectors of all items, `[N, D]`."""

    model: TwoTower
    scorings: Mapping[str, Scoring | None]
    vectors: Tensor

    def scorer(self, name: str) -> Scorer:
        """A scorer by its name in `SCORERS`."""
        scoring = self.scorings[name]
        return DotProduct() if scoring is None else scoring.scorer.eval()


def run(work: Path, *, quick: bool = False) -> Report:
    """Run the benchmark; `work` keeps request tables and snapshots.

    Raises:
        MovieLensError: the data cannot be fetched.
    """
    ratings, folder = movielens.load(movielens.fetch()), work / "ranking"
    files_ = write_requests(ratings, folder, held_out=HELD_OUT)
    write_held_out_ratings(ratings, folder / "held_out_ratings.parquet", held_out=HELD_OUT)
    with as_file(files("silverray.configs")) as configs:
        config = TrainConfig.load(configs / CONFIG, folder=folder.resolve())
    config = config.model_copy(update={"epochs": 1 if quick else config.epochs, "serve_tasks": None})
    data = RunData.open(config)
    found = {"liked": files_.held_out, "watched": folder / "held_out_ratings.parquet"}
    seeds = SEEDS[:1] if quick else SEEDS
    learned = [with_threads(partial(learn, data, config, seed), 1)() for seed in seeds]
    report = Report("ranking", TITLE, "silverray bench ranking", quick=quick)
    report.facts({"candidates of a task": CANDIDATES, "items that self-attention judges together in a search": WINDOW})
    report.facts({"seeds": seeds, "epochs": config.epochs, "threads": THREADS})
    report.table("recall of what came later", RECALL, _recalls(learned, data, found))
    catalogs = {name: _publish(learned[0], name, data, config, folder) for name in SCORERS}
    users = _users(learned[0], data, found["liked"])
    rounds = 3 if quick else 15
    report.table(f"searches, k = {PLACES[1]}, batches of {BATCH}", SPEED, _speeds(catalogs, users, rounds))
    rows = _given(learned[0], data, catalogs, users[:ASKING], rounds, "towers as configured")
    wide = learn(data, config.model_copy(update={"epochs": 0}), 0, WIDE)
    report.table(
        f"{GIVEN:,} given items for a user, {ASKING} users in turn",
        GIVEN_ITEMS,
        rows + _recomputed(wide, data, rows, users[:ASKING], rounds),
    )
    return report


def learn(data: RunData, config: TrainConfig, seed: int, widths: Widths | None = None) -> Learned:
    """Train towers and all scorers together; no epoch leaves them untrained."""
    loader = RequestLoader(
        data.requests,
        data.items,
        LoaderConfig(requests=config.batch.requests, shuffle_window=config.batch.shuffle_window, seed=seed),
    )
    counts = ItemCounts.of(loader.batches(0), data.items.ids.size, len(data.format.tasks))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = make_towers(data.format, data.items, widths or Widths(**config.widths.model_dump()))
        scorings = {name: _scoring(its, data, config, counts.shares) for name, its in SCORERS.items()}
    softmaxes = {f"softmax{task}": SampledSoftmax(task, 0.1, counts.shares) for task in range(len(data.format.tasks))}
    recipe = Recipe(
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        dropout=config.dropout,
        weights={"softmax1": 0.3},
        seed=seed,
    )
    learners = {f"scorer{place}": its for place, its in enumerate(scorings.values()) if its is not None}
    for _ in Trainer(model, {**softmaxes, **learners}, loader.batches, recipe).steps():
        pass
    return Learned(model.eval(), scorings, item_vectors(model.items, data.items, data.keys))


def _scoring(scorer: ScorerConfig | None, data: RunData, config: TrainConfig, shares: Tensor) -> Scoring | None:
    if scorer is None:
        return None
    tasks, file = len(data.format.tasks), config.items.file
    return make_scoring(scorer, tasks, config.widths.dimension, file, data.items.ids, data.keys, shares)


def _recalls(learned: list[Learned], data: RunData, found: Mapping[str, Path]) -> Iterator[dict[str, Any]]:
    for task, file in found.items():
        table, column = RequestTable.open(file, data.format), data.format.tasks.index(task)
        hits = [_hits(its, list(read_likes(table, data.items, data.keys, column)), column) for its in learned]
        for name in SCORERS:
            # By seed, and by the number of places that count.
            recall = np.array([[np.mean(own[name] < places) for places in PLACES] for own in hits])
            yield {
                "scorer": name,
                "task": task,
                "mean20": recall[:, 0].mean(),
                "low20": recall[:, 0].min(),
                "high20": recall[:, 0].max(),
                "mean100": recall[:, 1].mean(),
                "found": len(hits[0][name]),
            }


@torch.inference_mode()
def _hits(learned: Learned, likes: list[Likes], task: int) -> dict[str, NDArray[np.int64]]:
    """By scorer `[n]`: how many films stand before each one to be found; `N` where it is no candidate."""
    ranks: dict[str, list[Tensor]] = {name: [] for name in SCORERS}
    for some in likes:
        users = learned.model.users(features_of(some.users))[torch.from_numpy(some.request)]
        wanted = torch.from_numpy(some.liked)
        candidates = _candidates(users, learned.vectors, some, wanted)
        valid = candidates.slots >= 0
        items = learned.vectors[candidates.slots.clamp(min=0)]
        own = candidates.slots == wanted[:, None]
        for name in SCORERS:
            scores = learned.scorer(name)(users, items, items[:, :, :0], valid)[:, :, task].masked_fill(
                ~valid, -torch.inf
            )
            mine = scores.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
            ahead = (scores > mine) | ((scores == mine) & (candidates.slots < wanted[:, None]) & valid)
            ranks[name].append(torch.where(own.any(dim=1), ahead.sum(dim=1), len(learned.vectors)))
    return {name: torch.cat(its).numpy() for name, its in ranks.items()}


def _candidates(users: Tensor, vectors: Tensor, likes: Likes, wanted: Tensor) -> United:
    scores = torch.einsum("btd,nd->btn", users, vectors)
    for row, seen in enumerate(likes.seen):
        known = torch.from_numpy(seen)
        scores[row, :, known[known != wanted[row]]] = -torch.inf
    best = scores.topk(CANDIDATES, dim=2)
    return unite(best.indices, best.values)


@torch.inference_mode()
def _users(learned: Learned, data: RunData, file: Path) -> NDArray[np.float32]:
    """Vectors `[n, T, D]` of those who are asked for."""
    likes = read_likes(RequestTable.open(file, data.format), data.items, data.keys, 0)
    return np.concatenate([learned.model.users(features_of(some.users)).numpy() for some in likes])[: 8 * BATCH]


def _publish(learned: Learned, name: str, data: RunData, config: TrainConfig, folder: Path) -> Catalog:
    model = folder / "models" / name
    heads = {task: place for place, task in enumerate(data.format.tasks)}
    save_model(model, learned.model.users, data.format.user, data.keys, heads)
    scorer, scoring = SCORERS[name], learned.scorings[name]
    if scorer is not None and scoring is not None:
        save_scorer(model, scorer, scoring)
    schema = Schema.parse((files("silverray.configs") / SCHEMA).read_text(encoding="utf-8"), SCHEMA)
    store = folder / "snapshots"
    version = f"{name.strip('+ ').replace(' ', '-')}-{len(list(store.glob('*')))}"
    items = read_items(config.items.file, schema, with_vectors=False)
    return publish(items, schema, store, vectors=learned.vectors.numpy(), model=model, version=version)


def _speeds(catalogs: Mapping[str, Catalog], users: NDArray[np.float32], rounds: int) -> list[dict[str, Any]]:
    searchers = {name: LocalSearcher.open(catalog.path) for name, catalog in catalogs.items()}
    batches = [users[start : start + BATCH] for start in range(0, len(users), BATCH)]

    def ask(searcher: LocalSearcher) -> Callable[[], object]:
        return lambda: [searcher.search_batch(batch, k=PLACES[1]) for batch in batches]

    timed = interleave({name: with_threads(ask(its), THREADS) for name, its in searchers.items()}, rounds=rounds)
    rates = {name: timing.rates(len(users)) for name, timing in timed.items()}
    return [
        {"scorer": name, **rate, "share": rate["qps_p50"] / rates["two-tower"]["qps_p50"]}
        for name, rate in rates.items()
    ]


def _given(
    learned: Learned,
    data: RunData,
    catalogs: Mapping[str, Catalog],
    users: NDArray[np.float32],
    rounds: int,
    towers: str,
) -> list[dict[str, Any]]:
    engines = {name: LocalSearcher.open(catalog.path).engine for name, catalog in catalogs.items()}
    requests = [
        SearchRequest(vectors=user, keys=keys, k=GIVEN) for user, keys in zip(users, _given_keys(data), strict=True)
    ]
    contenders = {
        f"item cache, {name}": lambda engine=engine: [engine.answer([request]) for request in requests]
        for name, engine in engines.items()
    }
    return _times(contenders | _recomputing(learned, data, users, towers), rounds)


def _given_keys(data: RunData) -> list[NDArray[np.int64]]:
    """The items that each user gives, in no order."""
    rng = np.random.default_rng(0)
    return [rng.choice(data.keys, GIVEN, replace=False) for _ in range(ASKING)]


def _recomputed(
    wide: Learned, data: RunData, rows: list[dict[str, Any]], users: NDArray[np.float32], rounds: int
) -> list[dict[str, Any]]:
    """The same by wider towers, against the item cache as measured before: that does not depend on them."""
    recomputed = _times(_recomputing(wide, data, users, f"towers of hidden width {WIDE.hidden:,}"), rounds)
    return [row | {"times": row["ms_p50"] / rows[0]["ms_p50"]} for row in recomputed]


def _recomputing(
    learned: Learned, data: RunData, users: NDArray[np.float32], towers: str
) -> dict[str, Callable[[], object]]:
    """Looks up the items' features, runs the item tower, scores and sorts, as engines do from the cache."""
    given = list(zip(torch.from_numpy(users)[:, None], _given_keys(data), strict=True))

    @torch.inference_mode()
    def rank(user: Tensor, keys: NDArray[np.int64]) -> Tensor:
        items = item_vectors(learned.model.items, data.items, keys)[None]
        scores = DotProduct()(user, items, items[:, :, :0], torch.ones(1, len(keys), dtype=torch.bool))
        return top_k(scores.mean(dim=2), torch.tensor(keys), len(keys)).places

    return {f"item tower again, {towers}": lambda: [rank(user, keys) for user, keys in given]}


def _times(contenders: Mapping[str, Callable[[], object]], rounds: int) -> list[dict[str, Any]]:
    timed = interleave(
        {name: with_threads(its, THREADS) for name, its in contenders.items()}, rounds=2 * rounds, warmup=2
    )
    first = next(iter(timed.values())).p50_s
    return [{"how": name, **its.seconds(1e-3, "ms", ASKING), "times": its.p50_s / first} for name, its in timed.items()]
