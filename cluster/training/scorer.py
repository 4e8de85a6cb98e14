"""The scorer of a training run: made untrained, and saved beside the towers."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

from silverray.cluster.strict_yaml import ConfigError
from silverray.cluster.training.config import ScorerConfig
from silverray.shard.model.item_features import ItemFeatures
from silverray.shard.model.scorer_files import make_scorer, save_overarch
from silverray.shard.parquet.table import ParquetTable
from silverray.shard.schema.arrow import read_columns
from silverray.shard.schema.casts import ARROW_TYPES
from silverray.shard.schema.columns import ColumnError
from silverray.shard.schema.schema import Field, FieldType, Schema, VectorSpec
from silverray.shard.towers.ids import HashedIds, Keys, Vocabulary
from silverray.shard.train.scoring import SampledScoring, Scoring
from silverray.shard.train.set_scoring import SetScoring

_FIELD_TYPES: tuple[FieldType, ...] = ("date", "int", "float", "bool", "category", "tags")
"""What a column may be, in the order in which that is tried."""


def make_scoring(
    config: ScorerConfig,
    tasks: int,
    dimension: int,
    file: Path,
    ids: Vocabulary | HashedIds,
    keys: Keys,
    shares: Tensor,
) -> Scoring:
    """An untrained scorer and its objective.

    Args:
        config: of the scorer.
        tasks: of the towers.
        dimension: of their vectors.
        file: the item table, which has the columns that the scorer reads.
        ids: gives items their rows.
        keys: `[N]` int64 key of each item of the file.
        shares: share of all impressions by item id.

    Raises:
        ConfigError: a feature cannot be read, or a size does not fit the scorer.
    """
    features = _features(config)
    try:
        scorer = make_scorer(config.kind, tasks, dimension, features.width, {"hidden": config.hidden})
    except ValueError as error:
        raise ConfigError(f"scorer.{error}") from None
    table = torch.zeros(ids.size, features.width)
    if features.width:
        table[torch.from_numpy(ids.rows(keys))] = _read(features, file)
    if not scorer.pointwise:
        return SetScoring(scorer, table, shares, temperature=config.temperature, sampled=config.sampled)
    return SampledScoring(
        scorer, table, shares, temperature=config.temperature, sampled=config.sampled, balance=config.balance
    )


def save_scorer(model_dir: Path, config: ScorerConfig, scoring: Scoring) -> None:
    """Add the trained scorer to a model directory."""
    save_overarch(model_dir, config.kind, {"hidden": config.hidden}, scoring.scorer, _features(config))


def _features(config: ScorerConfig) -> ItemFeatures:
    try:
        return ItemFeatures.of(config.item_features)
    except ValueError as error:
        raise ConfigError(f"scorer.{error}") from None


def _read(features: ItemFeatures, file: Path) -> Tensor:
    """The features of all items of a file: `[N, F]` float32."""
    names = list(dict.fromkeys(transformation.field for transformation in features.transformations))
    table = ParquetTable.open(file)
    if missing := [name for name in names if name not in table]:
        raise ConfigError(f"scorer.item_features: expected columns of {file}, got {missing[0]!r}")
    types = {name: _type(table, name) for name in names}
    read = table.read({name: ARROW_TYPES[type_] for name, type_ in types.items()})
    fields = {name: Field(type=type_, nullable=True) for name, type_ in types.items()}
    schema = Schema(id="id of an item", vector=VectorSpec(dimension=1, metric="ip"), fields=fields)
    try:
        features.check(schema)
        columns = read_columns(read, schema)
    except (ColumnError, ValueError) as error:
        raise ConfigError(f"scorer.{error}") from None
    made: Tensor = features(columns, torch.arange(columns.items)[None])
    return made[0]


def _type(table: ParquetTable, column: str) -> FieldType:
    """The type of field that a column can be, numbers with decimals as floats."""
    decimal = any(map(pa.types.is_decimal, table.stored_types(column)))
    kinds: dict[pa.DataType, FieldType] = {
        ARROW_TYPES[kind]: kind for kind in _FIELD_TYPES if not (decimal and kind == "int")
    }
    return kinds[table.type_of(column, *kinds)]
