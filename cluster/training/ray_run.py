"""A training run on several processes, through Ray Train."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer

from silverray.cluster.serving.instance import connect_ray
from silverray.cluster.training.config import TrainConfig
from silverray.cluster.training.metrics import Progress, Tell
from silverray.cluster.training.run import RunData, Trained, train
from silverray.cluster.training.workers import DistributedWorkers

RAY_FOLDER = "ray"
COLLECTIVE_TIMEOUT_S = 600
"""Workers wait in a collective while the first one writes a checkpoint, which takes minutes on a bad day; a worker
that dies is noticed by Ray Train."""
_POLL_S = 0.5
"""For a person who watches a bar; each look is a call to an actor."""


class TrainingFailed(RuntimeError):
    """A process of the run failed; the message is its own."""


def train_on_ray(config: TrainConfig, tell: Tell, *, resume: bool, address: str | None) -> Trained:
    """Train on `config.workers` processes; they read the same files, so those lie where every node sees them.

    Args:
        config: the run.
        tell: told how far it is, about twice a second.
        resume: go on from the checkpoint instead of afresh.
        address: of a Ray cluster; None starts one on this machine that ends with the run.

    Raises:
        ConfigError: the cluster cannot be reached.
        TrainingFailed: a process failed.
        ValueError: a file is wrong.
    """
    RunData.open(config)  # before anything is started for it
    connect_ray(address, config.workers)
    try:
        board = ray.remote(num_cpus=0)(_Board).remote()
        trainer = TorchTrainer(
            _train_loop,
            train_loop_config={"config": config, "resume": resume, "board": board},
            scaling_config=ray.train.ScalingConfig(num_workers=config.workers),
            torch_config=TorchConfig(backend="gloo", timeout_s=COLLECTIVE_TIMEOUT_S),
            run_config=ray.train.RunConfig(name="train", storage_path=str(config.out / RAY_FOLDER)),
        )
        with _watched(board, tell):
            trainer.fit()
        trained: Trained = ray.get(board.trained.remote())
    except ray.train.TrainingFailedError as error:
        raise TrainingFailed(_reason(error)) from error
    finally:
        ray.shutdown()
    return trained


def _train_loop(settings: dict[str, Any]) -> None:
    workers, board = DistributedWorkers(), settings["board"]
    trained = train(settings["config"], workers, board.progress.remote, resume=settings["resume"])
    if workers.rank == 0:
        ray.get(board.finish.remote(trained))


class _Board:
    """Where process 0 writes how far it is and what it did, for the driver to read."""

    def __init__(self) -> None:
        self._latest: Progress | None = None
        self._trained: Trained | None = None

    def progress(self, progress: Progress) -> None:
        self._latest = progress

    def finish(self, trained: Trained) -> None:
        self._trained = trained

    def latest(self) -> Progress | None:
        return self._latest

    def trained(self) -> Trained | None:
        return self._trained


@contextmanager
def _watched(board: Any, tell: Tell) -> Iterator[None]:
    """Pass on what is written to the board while a block runs."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_POLL_S):
            progress = ray.get(board.latest.remote())
            if progress is not None:
                tell(progress)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _reason(error: Exception) -> str:
    """The last line that says something of the first process that failed."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    told = str(next(iter(failures.values()), error))
    return told.strip().splitlines()[-1]
