"""A training run as one process sees it: data, model, steps, checkpoints, and in the end a model to publish."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from silverray.cluster.strict_yaml import ConfigError
from silverray.cluster.training.config import ItemsConfig, SampledSoftmaxConfig, TrainConfig
from silverray.cluster.training.metrics import MetricsLog, Progress, Tell
from silverray.cluster.training.scorer import make_scoring, save_scorer
from silverray.shard.parquet.rows import ID_TYPES, Rows
from silverray.shard.parquet.table import ParquetTable
from silverray.shard.towers.encoder import save_model
from silverray.shard.towers.ids import HashedIds, Keys
from silverray.shard.train.checkpoint import CHECKPOINT_FILE, CheckpointError, load_checkpoint, save_checkpoint
from silverray.shard.train.counts import ItemCounts
from silverray.shard.train.evaluation import Recall, item_vectors, measure_recall, read_likes
from silverray.shard.train.format import RequestFormat, category_rules
from silverray.shard.train.items import ItemTable, feature_types, read_keys
from silverray.shard.train.loader import LoaderConfig, RequestLoader
from silverray.shard.train.objectives import BinaryCrossEntropy, SampledSoftmax
from silverray.shard.train.requests import RequestTable
from silverray.shard.train.scoring import Scoring
from silverray.shard.train.shapes import Widths, make_towers
from silverray.shard.train.trainer import Recipe, Step, Trainer
from silverray.shard.train.workers import Workers

MODEL_FOLDER = "model"
METRICS_FOLDER = "metrics"
CHECKPOINT_FOLDER = "checkpoint"
VECTORS_FILE = "item_vectors.npy"
SCORER = "scorer"

# It warns of a question that TorchRec asks it.
logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)


class Trained(NamedTuple):
    """What a run did.

    Attributes:
        steps: over all epochs.
        requests: in an epoch.
        impressions: in an epoch.
        losses: mean of each objective over the last epoch, as far as this process has trained it.
        recall: of the held-out likes, None where there are none.
        seconds: wall time, reading included.
    """

    steps: int
    requests: int
    impressions: int
    losses: dict[str, float]
    recall: Recall | None
    seconds: float


@dataclass(frozen=True, slots=True)
class RunData:
    """The tables of a run.

    Attributes:
        format: what the columns of requests mean.
        requests: to train on.
        held_out: to judge by.
        items: the catalog, as requests are joined to it.
        keys: `[N]` int64 key of each item, in the order of the item table.
    """

    format: RequestFormat
    requests: RequestTable
    held_out: RequestTable | None
    items: ItemTable
    keys: Keys

    @classmethod
    def open(cls, config: TrainConfig) -> RunData:
        """Open all tables and check that they fit the configuration.

        Raises:
            FormatError, TableError: a file is missing or wrong; the message names it.
            ConfigError: the configuration names a task or feature that there is none of, or there is no request.
        """
        format = RequestFormat.load(config.features)
        _check_names(config, format)
        requests = RequestTable.open(config.requests, format)
        if not len(requests):
            raise ConfigError(f"requests: expected at least one in {', '.join(map(str, config.requests))}, got none")
        ids = None if config.items.buckets is None else HashedIds(config.items.buckets)
        table = _read_items(config.items)
        items = ItemTable.from_arrow(
            table, config.items.id, category_rules(config.items.features), ids=ids, name=str(config.items.file)
        )
        return cls(
            format,
            requests,
            None if config.held_out is None else RequestTable.open(config.held_out, format),
            items,
            read_keys(Rows(str(config.items.file), table), config.items.id),
        )


def train(config: TrainConfig, workers: Workers, tell: Tell, *, resume: bool) -> Trained:
    """Train, and write what there is to publish; every process of the run calls this.

    Args:
        config: the run.
        workers: the processes that train together.
        tell: told of every step, in process 0.
        resume: go on from the checkpoint instead of afresh.

    Raises:
        CheckpointError: there is no checkpoint to go on from, or one of another run.
        OSError: the folder of the run cannot be written; its last checkpoint stays.
        ValueError: the data is wrong; the message says where.
    """
    with _threads(config.threads):
        return _Run(config, workers, resume).finish(tell)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Say of errors of the file system where it was that nothing could be written, and that the run can go on."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())
        has_one = (out / CHECKPOINT_FOLDER / CHECKPOINT_FILE).exists()
        advice = "; make room and go on from the last checkpoint with --resume" if has_one else ""
        raise OSError(f"{out}: cannot be written: {reason}{advice}") from error


class _Run:
    def __init__(self, config: TrainConfig, workers: Workers, resume: bool) -> None:
        self._started = time.perf_counter()
        self._config, self._leads = config, workers.rank == 0
        self._data = data = RunData.open(config)
        batch = config.batch
        loader = RequestLoader(
            data.requests,
            data.items,
            LoaderConfig(
                requests=batch.requests,
                impressions=batch.impressions,
                shuffle_window=batch.shuffle_window,
                seed=config.seed,
            ),
        )
        self._counts = ItemCounts.of(loader.batches(0), data.items.ids.size, len(data.format.tasks))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self._model = make_towers(data.format, data.items, Widths(**config.widths.model_dump()))
            self._scoring = self._make_scoring()
        objectives = _objectives(config, data.format, self._counts.shares)
        if self._scoring is not None:
            objectives[SCORER] = self._scoring
        self._trainer = Trainer(self._model, objectives, loader.batches, _recipe(config), workers)
        self._first_step = 1
        if resume:
            self._restore()

    def _make_scoring(self) -> Scoring | None:
        config, data = self._config, self._data
        if config.scorer is None:
            return None
        return make_scoring(
            config.scorer,
            len(data.format.tasks),
            config.widths.dimension,
            config.items.file,
            data.items.ids,
            data.keys,
            self._counts.shares,
        )

    def finish(self, tell: Tell) -> Trained:
        """Train to the end; process 0 writes metrics, checkpoints and what there is to publish."""
        epoch: list[Step] = []
        if not self._leads:
            for step in self._trainer.steps():
                _note(epoch, step)
            return self._trained(epoch, None)
        with (
            _writing(self._config.out),
            closing(MetricsLog(self._config.out / METRICS_FOLDER, self._first_step)) as log,
        ):
            for step in self._trainer.steps():
                _note(epoch, step)
                log.write_step(step)
                tell(self._progress(step))
                if step.number % self._config.checkpoint_every == 0:
                    self._save()
            self._save()
            trained = self._trained(epoch, self._publishable())
            if trained.recall is not None and self._config.recall is not None:
                log.write(f"recall_at_{self._config.recall.places}", trained.recall.model, trained.steps)
            return trained

    def _progress(self, step: Step) -> Progress:
        requests = len(self._data.requests)
        return Progress(step.epoch * requests + step.position, self._config.epochs * requests, step.losses)

    def _trained(self, epoch: Sequence[Step], recall: Recall | None) -> Trained:
        names = epoch[0].losses if epoch else ()
        return Trained(
            steps=epoch[-1].number if epoch else self._first_step - 1,
            requests=len(self._data.requests),
            impressions=int(self._counts.shown.sum()),
            losses={name: sum(step.losses[name] for step in epoch) / len(epoch) for name in names},
            recall=recall,
            seconds=time.perf_counter() - self._started,
        )

    def _publishable(self) -> Recall | None:
        """Write the model and the item vectors, and measure the recall."""
        config, data = self._config, self._data
        vectors = item_vectors(self._model.items, data.items, data.keys)
        config.out.mkdir(parents=True, exist_ok=True)
        np.save(config.out / VECTORS_FILE, vectors.numpy())
        tasks = config.serve_tasks or data.format.tasks
        ids = data.keys if config.items.buckets is None else HashedIds(config.items.buckets)
        heads = {task: data.format.tasks.index(task) for task in tasks}
        save_model(config.out / MODEL_FOLDER, self._model.users, data.format.user, ids, heads)
        if config.scorer is not None and self._scoring is not None:
            save_scorer(config.out / MODEL_FOLDER, config.scorer, self._scoring)
        if data.held_out is None or config.recall is None:
            return None
        task = data.format.tasks.index(config.recall.task)
        likes = read_likes(data.held_out, data.items, data.keys, task)
        counts = self._counts.positive[data.items.ids.rows(data.keys), task].numpy()
        return measure_recall(self._model.users, vectors, likes, counts, task, config.recall.places)

    def _save(self) -> None:
        state = {**self._trainer.state(), "config": self._config.fingerprint(), "requests": len(self._data.requests)}
        save_checkpoint(self._config.out / CHECKPOINT_FOLDER, state)

    def _restore(self) -> None:
        folder = self._config.out / CHECKPOINT_FOLDER
        state = load_checkpoint(folder)
        wanted = {**self._config.fingerprint(), "requests": len(self._data.requests)}
        found = {**state.get("config", {}), "requests": state.get("requests")}
        if other := [key for key in wanted if found.get(key) != wanted[key]]:
            told = "; ".join(f"{key}: expected {wanted[key]}, got {found.get(key)}" for key in other)
            raise CheckpointError(f"{folder}: the checkpoint is of another run: {told}")
        self._trainer.restore(state)
        self._first_step = state["place"]["number"] + 1


def _note(epoch: list[Step], step: Step) -> None:
    """Add a step to those of its epoch, which replace those of the one before."""
    if epoch and epoch[-1].epoch != step.epoch:
        epoch.clear()
    epoch.append(step)


def _objectives(config: TrainConfig, format: RequestFormat, shares: Tensor) -> dict[str, nn.Module]:
    objectives: dict[str, nn.Module] = {}
    for name, wanted in _named(config).items():
        task = format.tasks.index(wanted.task)
        if isinstance(wanted, SampledSoftmaxConfig):
            objectives[name] = SampledSoftmax(task, wanted.temperature, shares)
        else:
            objectives[name] = BinaryCrossEntropy(task)
    return objectives


def _named(config: TrainConfig) -> dict[str, Any]:
    """Objectives by a name that a module can have."""
    return {f"{one.task}-{one.loss}".replace(".", "_"): one for one in config.objectives}


def _recipe(config: TrainConfig) -> Recipe:
    weights: dict[str, float] = {name: objective.weight for name, objective in _named(config).items()}
    if config.scorer is not None:
        weights[SCORER] = config.scorer.weight
    return Recipe(
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        dropout=config.dropout,
        weights=weights,
        seed=config.seed,
    )


def _check_names(config: TrainConfig, format: RequestFormat) -> None:
    named = [("objectives", objective.task) for objective in config.objectives]
    named += [("serve_tasks", task) for task in config.serve_tasks or ()]
    named += [("recall.task", config.recall.task)] if config.recall else []
    for key, task in named:
        if task not in format.tasks:
            raise ConfigError(f"{key}: expected one of the tasks {', '.join(format.tasks)}, got {task!r}")
    if len(_named(config)) < len(config.objectives):
        raise ConfigError("objectives: expected each loss of a task once")
    if config.scorer is not None and tuple(config.serve_tasks or format.tasks) != format.tasks:
        raise ConfigError(
            f"serve_tasks: expected all of {', '.join(format.tasks)} with a scorer, which scores them all"
        )
    for name in config.dropout:
        if name not in format.user.names:
            raise ConfigError(f"dropout: expected one of the features {', '.join(format.user.names)}, got {name!r}")


def _read_items(config: ItemsConfig) -> pa.Table:
    table, rules = ParquetTable.open(config.file), category_rules(config.features)
    columns = {config.id: table.type_of(config.id, *ID_TYPES)}
    return table.read(columns | {name: table.type_of(name, *feature_types(rule)) for name, rule in rules.items()})
