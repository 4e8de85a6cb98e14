"""The encoder: a saved user tower and the rules that turn a client's user features into its inputs.

A model directory holds `module_info.json` (feature rules, tower sizes, tasks), `user_tower.safetensors` (weights of the
dense layers, and the item keys that stand behind the rows of the history's table) and `tables/` (see `table_files`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from silverray.shard.api import SnapshotError
from silverray.shard.schema.user_features import UserFeatures, features_from
from silverray.shard.snapshot.documents import array_bytes, read_json
from silverray.shard.snapshot.weight_shapes import require_shapes
from silverray.shard.towers.ids import HashedIds, Keys, Vocabulary
from silverray.shard.towers.jagged import Jagged, features_of
from silverray.shard.towers.table_files import TABLES_FOLDER, check_tables, load_tables, read_tables, save_tables
from silverray.shard.towers.tables import LocalTables, Lookup, embedding_tables
from silverray.shard.towers.towers import DenseLayers, TowerShape, UserTower

if TYPE_CHECKING:
    from torchrec import KeyedJaggedTensor

INFO_FILE = "module_info.json"
WEIGHTS_FILE = "user_tower.safetensors"

_ITEM_KEYS = "item_keys"
_WEIGHT_PREFIX = "tower."
_INT64 = range(-(2**63), 2**63)


class TowerEncoder:
    """Turns user features into query vectors, off the event loop; implements `Encoder`.

    A missing feature that is not required is the unknown code (an empty history); None counts as missing.
    Names that the tower does not take are left out.

    Args:
        layers: the user tower behind its tables.
        features: the rules of its inputs.
        item_ids: gives the items of a history their rows.
        tasks: names of the tower's tasks.
        lookup: where the tower's tables are.
    """

    def __init__(
        self,
        layers: DenseLayers,
        features: UserFeatures,
        item_ids: Vocabulary | HashedIds,
        tasks: Sequence[str],
        lookup: Lookup,
    ) -> None:
        self.layers = layers.eval()
        self.features = features
        self.tasks = tuple(tasks)
        self._item_ids = item_ids
        self._lookup = lookup
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")

    @classmethod
    def load(cls, model_dir: Path, lookup: Lookup | None = None) -> TowerEncoder:
        """Load what `save_model` wrote.

        Args:
            model_dir: the model directory.
            lookup: where its tables are; None reads them into this process.

        Raises:
            SnapshotError: a file is missing, damaged or does not fit the other.
            TablesUnavailable: TorchRec is not installed.
        """
        info_path, weights_path = model_dir / INFO_FILE, model_dir / WEIGHTS_FILE
        tables = read_tables(model_dir / TABLES_FOLDER)
        try:
            info = read_json(info_path)
            features = features_from(info)
            shape = TowerShape(tables, **info["tower"])
            tasks, buckets = tuple(info["tasks"]), info["history_buckets"]
            # Sizes are believed once the weights have them: the room for others may not be there.
            with torch.device("meta"):
                layers = DenseLayers(shape)
        except (OSError, ValueError, AttributeError, KeyError, TypeError, RuntimeError, OverflowError) as error:
            raise SnapshotError(f"{info_path}: not a readable model description: {error!r}") from error
        try:
            array_bytes(weights_path)  # refuses long headers
            tensors = load_file(weights_path)
            keys = tensors.pop(_ITEM_KEYS).numpy()
            item_ids = Vocabulary(keys) if buckets is None else HashedIds(buckets)
            _check_sizes(shape, features, item_ids)
            weights = {name.removeprefix(_WEIGHT_PREFIX): tensor for name, tensor in tensors.items()}
            require_shapes(layers, weights)
            layers.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, assign=True)
            layers.requires_grad_(False)
        except (OSError, SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise SnapshotError(f"{weights_path}: no weights of this tower: {error}") from error
        if lookup is None:
            check_tables(model_dir / TABLES_FOLDER, tables)
            module = embedding_tables(tables)
            load_tables(model_dir / TABLES_FOLDER, tables, module)
            lookup = LocalTables(tables, module)
        return cls(layers, features, item_ids, tasks, lookup)

    async def encode(self, users: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        """Encode a batch of users.

        Args:
            users: one mapping of feature name to value per user.

        Returns:
            `[B, T, D]` float32 vectors of length 1.

        Raises:
            InvalidRequest: a required feature is missing or a feature has the wrong type; `where` says
                `user[i].NAME`.
            EncoderUnavailable: the tables cannot be asked now.
        """
        if not users:
            return np.empty((0, self.layers.tasks, self.layers.dimension), np.float32)
        loop = asyncio.get_running_loop()
        ids = await loop.run_in_executor(self._executor, self._ids, list(users))
        pooled = await self._lookup.look_up(ids)
        return await loop.run_in_executor(self._executor, self._vectors, pooled)

    def close(self) -> None:
        """End the encoder's thread once its work is done."""
        self._executor.shutdown(wait=True)

    def _ids(self, users: list[Mapping[str, Any]]) -> KeyedJaggedTensor:
        for row, user in enumerate(users):
            self.features.check(user, f"user[{row}]")
        columns = {self.features.history_name: self._histories(users)}
        for name, rule in self.features.categories.items():
            values = [user.get(name) for user in users]
            codes = [0 if value is None else rule.code(value) for value in values]
            columns[name] = Jagged.of_ones(np.array(codes, dtype=np.int64))
        return features_of(columns)

    def _histories(self, users: list[Mapping[str, Any]]) -> Jagged:
        """The rows of each user's latest known items."""
        rule, name = self.features.history, self.features.history_name
        keys = [[key for key in rule.keys(user.get(name) or ()) if key in _INT64] for user in users]
        flat = np.fromiter((key for own in keys for key in own), np.int64)
        lengths = np.fromiter(map(len, keys), np.int64)
        rows = Jagged.of_lengths(self._item_ids.rows(flat), lengths)
        return rows.where(rows.values != 0).latest(rule.length)

    @torch.inference_mode()
    def _vectors(self, pooled: Tensor) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self.layers(pooled).numpy()
        return vectors


def save_model(
    model_dir: Path,
    tower: UserTower,
    features: UserFeatures,
    item_ids: Keys | HashedIds,
    tasks: Mapping[str, int],
) -> None:
    """Write a user tower with the rules of its inputs.

    Args:
        model_dir: directory to write to; made if need be.
        tower: the trained tower.
        features: the rules of its inputs.
        item_ids: `[N]` int64 key of each row of the history's table (see `silverray.shard.schema.keys`), or the hash
            that gives keys their rows.
        tasks: the heads to keep, by the names that their tasks get.

    Raises:
        ValueError: keys, tasks or features do not fit the tower.
    """
    shape = replace(tower.shape, tasks=len(tasks))
    if not tasks or not set(tasks.values()) <= set(range(tower.shape.tasks)):
        raise ValueError(f"tasks: expected heads 0 to {tower.shape.tasks - 1}, got {dict(tasks)}")
    buckets = item_ids.buckets if isinstance(item_ids, HashedIds) else None
    keys = np.empty(0, np.int64) if isinstance(item_ids, HashedIds) else item_ids
    _check_sizes(shape, features, Vocabulary(keys) if buckets is None else HashedIds(buckets))
    info = {
        "input_names": list(features.names),
        "output_names": ["vectors"],
        "features": features.to_document(),
        "history_buckets": buckets,
        "tower": {"hidden": shape.hidden, "dimension": shape.dimension, "tasks": shape.tasks},
        "tasks": list(tasks),
        "dimension": shape.dimension,
    }
    state = tower.layers.state_of(list(tasks.values()))
    tensors = {_WEIGHT_PREFIX + name: tensor.contiguous() for name, tensor in state.items()}
    tensors[_ITEM_KEYS] = torch.from_numpy(np.array(keys, dtype=np.int64))
    model_dir.mkdir(parents=True, exist_ok=True)
    (model_dir / INFO_FILE).write_text(json.dumps(info, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    save_file(tensors, model_dir / WEIGHTS_FILE)
    save_tables(model_dir / TABLES_FOLDER, shape.tables, tower.embeddings)


def _check_sizes(shape: TowerShape, features: UserFeatures, item_ids: Vocabulary | HashedIds) -> None:
    """Raise ValueError unless every feature has a table with a row for each of its codes."""
    rows = {name: table.rows for table in shape.tables for name in table.features}
    wanted = {features.history_name: item_ids.size, **{name: rule.size for name, rule in features.categories.items()}}
    if rows != wanted:
        raise ValueError(f"features: expected tables of sizes {rows}, got {wanted}")
