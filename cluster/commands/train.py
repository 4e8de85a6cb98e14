"""`silverray train`."""

from __future__ import annotations

from pathlib import Path

from silverray.cluster.commands.terminal import notes, print_json, progress_bar, results
from silverray.cluster.training.config import TrainConfig
from silverray.cluster.training.metrics import Progress
from silverray.cluster.training.run import MODEL_FOLDER, VECTORS_FILE, Trained, train
from silverray.shard.train.workers import Alone


def run_train(path: Path, *, workers: int | None, resume: bool, address: str | None, as_json: bool) -> None:
    """Train with a progress bar, and say what was written and how to publish it.

    Raises:
        ConfigError, FormatError, TableError: a file is wrong.
        CheckpointError: there is nothing to resume.
        TablesUnavailable: TorchRec is not installed.
    """
    config = TrainConfig.load(path, workers=workers)
    trained = train_with_progress(config, resume=resume, address=address)
    model, vectors = config.out / MODEL_FOLDER, config.out / VECTORS_FILE
    if as_json:
        recall = None if trained.recall is None else trained.recall._asdict()
        print_json({**trained._asdict(), "recall": recall, "model": str(model), "vectors": str(vectors)})
        return
    for line in describe(trained, config):
        results.print(line)
    notes.print("to publish it:", highlight=False)
    command = f"silverray publish {config.items.file} --schema SCHEMA.yaml --vectors {vectors} --model {model}"
    results.print(f"{command} --out SNAPSHOTS", highlight=False, soft_wrap=True)


def train_with_progress(config: TrainConfig, *, resume: bool = False, address: str | None = None) -> Trained:
    """Train in this process, or on Ray where more than one is asked for or a cluster is named."""
    with progress_bar() as bar:
        task = bar.add_task("training", total=None)

        def tell(progress: Progress) -> None:
            losses = ", ".join(f"{name} {loss:.3f}" for name, loss in progress.losses.items())
            bar.update(task, completed=progress.done, total=progress.total, description=f"training ({losses})")

        if config.workers == 1 and address is None:
            return train(config, Alone(), tell, resume=resume)
        from silverray.cluster.training.ray_run import train_on_ray

        return train_on_ray(config, tell, resume=resume, address=address)


def describe(trained: Trained, config: TrainConfig) -> list[str]:
    """What a run did, for a person."""
    lines = [
        f"{trained.requests:,} requests with {trained.impressions:,} impressions, {config.epochs} times, in "
        f"{trained.steps:,} steps; {trained.seconds:.0f} s",
        "loss: " + ", ".join(f"{name} {loss:.3f}" for name, loss in trained.losses.items()),
    ]
    if trained.recall is not None and config.recall is not None:
        lines.append(
            f"of {trained.recall.likes:,} held-out {config.recall.task!r}, the first {config.recall.places} places "
            f"hold [bold]{trained.recall.model:.1%}[/] (most popular: {trained.recall.popularity:.1%})"
        )
    return lines
