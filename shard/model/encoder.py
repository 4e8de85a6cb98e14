"""The encoder: a saved user tower and the rules that turn a client's user features into its inputs.

A model directory holds `module_info.json` (feature rules, tower sizes, tasks) and `user_tower.safetensors`
(weights, and the item keys that stand behind the rows of the history table).
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from silverray.shard.api import InvalidRequest, SnapshotError
from silverray.shard.model.features import UserFeatures, features_from
from silverray.shard.model.towers import UserTower, UserTowerShape

INFO_FILE = "module_info.json"
WEIGHTS_FILE = "user_tower.safetensors"
MAX_TRIMMED_NAMES = 1_000
OTHER_NAMES = "(other)"

_ITEM_KEYS = "item_keys"
_WEIGHT_PREFIX = "tower."


class TowerEncoder:
    """Turns user features into query vectors in a thread of its own; implements `Encoder`.

    A missing feature that is not required is the unknown code (an empty history); None counts as missing.
    Names that the tower does not take are left out and counted.

    Args:
        tower: the user tower.
        features: the rules of its inputs.
        item_keys: item key of every row of the history table, `tower.shape.items` of them.
        tasks: names of the tower's tasks.

    Attributes:
        trimmed: how often each feature name was left out; names past the first `MAX_TRIMMED_NAMES` share one.
    """

    def __init__(
        self, tower: UserTower, features: UserFeatures, item_keys: NDArray[np.int64], tasks: Sequence[str]
    ) -> None:
        self.tower = tower.eval()
        self.features = features
        self.tasks = tuple(tasks)
        self.trimmed: Counter[str] = Counter()
        self._row_of_key = {key: row for row, key in enumerate(item_keys.tolist(), start=1)}
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")

    @classmethod
    def load(cls, model_dir: Path) -> TowerEncoder:
        """Load what `save_model` wrote.

        Raises:
            SnapshotError: a file is missing, damaged or does not fit the other.
        """
        info_path, weights_path = model_dir / INFO_FILE, model_dir / WEIGHTS_FILE
        try:
            info = json.loads(info_path.read_text(encoding="utf-8"))
            features = features_from(info)
            sizes = info["tower"]
            tower = UserTower(UserTowerShape(**{**sizes, "categories": tuple(sizes["categories"])}))
            tasks = tuple(info["tasks"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SnapshotError(f"{info_path}: not a readable model description: {error!r}") from error
        try:
            tensors = load_file(weights_path)
            item_keys = tensors.pop(_ITEM_KEYS).numpy()
            tower.load_state_dict({name.removeprefix(_WEIGHT_PREFIX): t for name, t in tensors.items()})
        except (OSError, SafetensorError, KeyError, RuntimeError) as error:
            raise SnapshotError(f"{weights_path}: no weights of this tower: {error}") from error
        return cls(tower, features, item_keys, tasks)

    async def encode(self, users: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        """Encode a batch of users.

        Args:
            users: one mapping of feature name to value per user.

        Returns:
            `[B, T, D]` float32 vectors of length 1.

        Raises:
            InvalidRequest: a required feature is missing or a feature has the wrong type; `where` says
                `user[i].NAME`.
        """
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._encode, list(users))

    def close(self) -> None:
        """End the encoder's thread once its work is done."""
        self._executor.shutdown(wait=True)

    def _encode(self, users: list[Mapping[str, Any]]) -> NDArray[np.float32]:
        history = np.zeros((len(users), self.features.history.length), dtype=np.int64)
        categories = np.zeros((len(users), len(self.features.categories)), dtype=np.int64)
        for row, user in enumerate(users):
            for column, (name, rule) in enumerate(self.features.categories.items()):
                if (value := _value(user, name, rule.required, row)) is not None:
                    with _blaming(row, name):
                        categories[row, column] = rule.code(value)
            rows = self._history_rows(user, row)
            history[row, : len(rows)] = rows
        for user in users:
            self._count_trimmed(user)
        with torch.inference_mode():
            vectors: NDArray[np.float32] = self.tower(torch.from_numpy(history), torch.from_numpy(categories)).numpy()
        return vectors

    def _history_rows(self, user: Mapping[str, Any], row: int) -> list[int]:
        rule, name = self.features.history, self.features.history_name
        if (value := _value(user, name, rule.required, row)) is None:
            return []
        with _blaming(row, name):
            keys = rule.keys(value)
        return [self._row_of_key[key] for key in keys if key in self._row_of_key][-rule.length :]

    def _count_trimmed(self, user: Mapping[str, Any]) -> None:
        for name in user.keys() - set(self.features.names):
            room = name in self.trimmed or len(self.trimmed) < MAX_TRIMMED_NAMES
            self.trimmed[name if room else OTHER_NAMES] += 1


def save_model(
    model_dir: Path,
    tower: UserTower,
    features: UserFeatures,
    item_keys: NDArray[np.int64],
    tasks: Sequence[str] = ("default",),
) -> None:
    """Write a user tower with the rules of its inputs.

    Args:
        model_dir: directory to write to; made if need be.
        tower: the trained tower.
        features: the rules of its inputs.
        item_keys: `[N]` int64 key of each row of the history table (see `silverray.shard.index.keys`).
        tasks: one name per task of the tower.

    Raises:
        ValueError: keys, tasks or features do not fit the tower.
    """
    sizes = tuple(rule.size for rule in features.categories.values())
    if len(item_keys) != tower.shape.items:
        raise ValueError(f"item_keys: expected {tower.shape.items}, got {len(item_keys)}")
    if len(tasks) != tower.shape.tasks:
        raise ValueError(f"tasks: expected {tower.shape.tasks} names, got {len(tasks)}")
    if sizes != tower.shape.categories:
        raise ValueError(f"features: expected sizes {tower.shape.categories}, got {sizes}")
    info = {
        "input_names": list(features.names),
        "output_names": ["vectors"],
        "features": features.to_document(),
        "tower": asdict(tower.shape),
        "tasks": list(tasks),
        "dimension": tower.shape.dimension,
    }
    tensors = {_WEIGHT_PREFIX + name: tensor.contiguous() for name, tensor in tower.state_dict().items()}
    tensors[_ITEM_KEYS] = torch.from_numpy(np.ascontiguousarray(item_keys, dtype=np.int64))
    model_dir.mkdir(parents=True, exist_ok=True)
    (model_dir / INFO_FILE).write_text(json.dumps(info, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    save_file(tensors, model_dir / WEIGHTS_FILE)


def _value(user: Mapping[str, Any], name: str, required: bool, row: int) -> Any:
    value = user.get(name)
    if value is None and required:
        raise InvalidRequest(f"required feature {name!r} is missing", f"user[{row}].{name}")
    return value


@contextmanager
def _blaming(row: int, name: str) -> Iterator[None]:
    try:
        yield
    except (TypeError, UnicodeEncodeError) as error:
        raise InvalidRequest(f"{name}: {error}", f"user[{row}].{name}") from None
