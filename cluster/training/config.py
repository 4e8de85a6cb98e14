"""Configuration of a training run: one strict YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from silverray.cluster.config import Count, Positive
from silverray.cluster.strict_yaml import ConfigError, File, Section, read_section
from silverray.shard.parquet.paths import is_url
from silverray.shard.train.format import CategorySection

Fraction = Annotated[float, Field(ge=0, lt=1)]
Names = Annotated[list[str], Field(min_length=1)]

# What does not change how a run goes on, and may differ when it is continued.
_FREE = {
    "folder",
    "out",
    "requests",
    "held_out",
    "features",
    "workers",
    "epochs",
    "checkpoint_every",
    "serve_tasks",
    "recall",
}


class ItemsConfig(Section):
    """The catalog.

    Attributes:
        file: Parquet file, or a folder of them, an item a row; its order is that of the item vectors.
        id: column of the ids.
        features: what else is known of an item, by column.
        buckets: rows of the tables of item ids, which are hashed then; None gives each item a row of its own.
    """

    file: File
    id: str
    features: dict[str, CategorySection] = Field(default_factory=dict)
    buckets: Count | None = None


class WidthsConfig(Section):
    """How wide the model is; see `silverray.shard.train.shapes.Widths`."""

    dimension: Count = 64
    hidden: Count = 128
    ids: Count = 64
    categories: Count = 8


class SampledSoftmaxConfig(Section):
    """See `silverray.shard.train.objectives.SampledSoftmax`; the weight is a factor of the loss."""

    task: str
    loss: Literal["sampled_softmax"]
    temperature: Positive = 0.1
    weight: Positive = 1.0


class BinaryCrossEntropyConfig(Section):
    """See `silverray.shard.train.objectives.BinaryCrossEntropy`; the weight is a factor of the loss."""

    task: str
    loss: Literal["binary_cross_entropy"]
    weight: Positive = 1.0


class ScorerConfig(Section):
    """A scorer on top of the towers; see `silverray.shard.model.scorers`.

    What it learns is in `silverray.shard.train.scoring`, and for self-attention in `silverray.shard.train.set_scoring`.

    Attributes:
        kind: which one.
        hidden: width of its hidden layers; for self-attention a multiple of 4.
        item_features: what it reads of the items' columns; see `silverray.shard.model.item_features`.
        temperature: scores are divided by it.
        sampled: items of the batch that an item must be told from.
        balance: weight of the load-balancing loss of a mixture.
        weight: factor of the loss.
    """

    kind: Literal["mlp", "mixture_of_logits", "self_attention"]
    hidden: Count = 64
    item_features: list[dict[str, Any]] = Field(default_factory=list)
    temperature: Positive = 0.1
    sampled: Count = 128
    balance: Annotated[float, Field(ge=0)] = 0.01
    weight: Positive = 1.0


Objective = Annotated[SampledSoftmaxConfig | BinaryCrossEntropyConfig, Field(discriminator="loss")]


class BatchConfig(Section):
    """How requests become batches; see `silverray.shard.train.loader.LoaderConfig`."""

    requests: Count | None = None
    impressions: Count | None = None
    shuffle_window: Count = 8_192


class RecallConfig(Section):
    """How held-out requests are judged.

    Attributes:
        task: whose labels count, and which head ranks.
        places: how many of the best items count.
    """

    task: str
    places: Count = 20


class TrainConfig(Section):
    """A training run.

    Attributes:
        folder: what the paths of data and output count from; itself relative to the file.
        requests: request tables, files or folders, in the order of time.
        held_out: a later request table to judge the towers by; None leaves that out.
        features: description of the requests, relative to the file; see `silverray.shard.train.format`.
        items: the catalog.
        out: folder for the model, the item vectors, metrics and checkpoints.
        widths: how wide the model is.
        objectives: what it is trained for; at least one.
        scorer: learned with the towers, to rank what they find; it scores all tasks, so all must be served.
        batch: how requests become batches.
        epochs: passes over the requests.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        dropout: of user features by name, the fraction of ids that is left out at random.
        seed: of weights, order and dropout.
        serve_tasks: tasks that the published encoder gives vectors for; None means all.
        recall: how held-out requests are judged.
        checkpoint_every: steps between two checkpoints.
        workers: processes; more than one run on Ray and compute the same.
        threads: compute threads of each process; None leaves it to PyTorch. Small steps are fastest with one.
    """

    folder: File = Path()
    requests: Annotated[list[File], Field(min_length=1)]
    held_out: File | None = None
    features: File
    items: ItemsConfig
    out: File
    widths: WidthsConfig = WidthsConfig()
    objectives: Annotated[list[Objective], Field(min_length=1)]
    scorer: ScorerConfig | None = None
    batch: BatchConfig
    epochs: Count
    learning_rate: Positive = 3e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    dropout: dict[str, Fraction] = Field(default_factory=dict)
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    serve_tasks: Names | None = None
    recall: RecallConfig | None = None
    checkpoint_every: Count = 1_000
    workers: Count = 1
    threads: Count | None = None

    @field_validator("requests", mode="before")
    @classmethod
    def _one_or_many(cls, given: Any) -> Any:
        return [given] if isinstance(given, str | Path) else given

    @classmethod
    def load(cls, path: Path, **overrides: Any) -> TrainConfig:
        """Read a YAML file.

        Args:
            path: the file.
            overrides: values that replace the file's; those that are None do not.

        Raises:
            ConfigError: the file cannot be read, is not YAML, or a key in it is unknown or has a wrong value.
        """
        config = read_section(cls, path, overrides)
        if (config.held_out is None) != (config.recall is None):
            raise ConfigError(f"{path}: recall: expected both held_out and recall, or neither")
        home = path.resolve().parent
        folder = (home / config.folder).resolve()
        return config.model_copy(
            update={
                "folder": folder,
                "requests": [_local(folder, file) for file in config.requests],
                "held_out": config.held_out and _local(folder, config.held_out),
                "features": home / config.features,
                "items": config.items.model_copy(update={"file": _local(folder, config.items.file)}),
                "out": folder / config.out,
            }
        )

    def fingerprint(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be continued, as JSON values."""
        document = self.model_dump(mode="json", exclude=_FREE)
        del document["items"]["file"]
        return document


def _local(folder: Path, file: Path) -> Path:
    """A file below a folder; an address stays what it is, and is refused as one."""
    return file if is_url(file) else folder / file
