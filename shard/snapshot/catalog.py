"""The catalog's description: all that the layers above a shard need to know of a published snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch

from silverray.shard.api import SnapshotError
from silverray.shard.filter.layout import PlaneLayout
from silverray.shard.printing import printable
from silverray.shard.schema.schema import Schema
from silverray.shard.schema.user_features import UserFeatures, features_from
from silverray.shard.snapshot.files import LAYOUT, SnapshotFiles

IdType = Literal["int", "string"]
CacheType = Literal["fp32", "bf16"]
CACHE_TYPES: dict[CacheType, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Types of the item cache by the names that snapshots give them."""
SET_WISE_SCORERS = frozenset({"self_attention"})
"""Names of the scorers that judge a list as a whole: all that readers of a catalog have to know of its scorer, whose
module only shards load."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """A snapshot without its items.

    Attributes:
        path: the snapshot's directory.
        version: its name.
        seq: log sequence number that the snapshot includes.
        items: number of items in all partitions.
        partition_items: number of items of each partition.
        clusters: number of k-means clusters.
        schema: fields and vector space.
        layout: assignment of planes to fields.
        id_type: type of the item ids.
        tasks: prediction targets; a query has one vector per task, in this order.
        user_features: what its user tower takes; None where it has none.
        set_wise: whether its scorer judges a list as a whole, so that it runs where lists are merged.
        cache: type in which the item cache keeps vectors.
        vector_space: name of the space that its vectors are of; live writes name theirs.
    """

    path: Path
    version: str
    seq: int
    items: int
    partition_items: tuple[int, ...]
    clusters: int
    schema: Schema
    layout: PlaneLayout
    id_type: IdType
    tasks: tuple[str, ...]
    user_features: UserFeatures | None
    set_wise: bool
    cache: CacheType
    vector_space: str

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read a snapshot's description.

        Args:
            path: the snapshot's directory.

        Returns:
            Its catalog.

        Raises:
            SnapshotError: the snapshot is missing, incomplete or altered; the message names the file.
        """
        return cls.of(SnapshotFiles.open(path))

    @classmethod
    def of(cls, files: SnapshotFiles) -> Self:
        """Read the description of an opened snapshot."""
        manifest = files.manifest
        schema = Schema.model_validate(manifest["schema"])
        return cls(
            path=files.path,
            version=manifest["version"],
            seq=manifest["seq"],
            items=sum(manifest["partition_items"]),
            partition_items=tuple(manifest["partition_items"]),
            clusters=manifest["clusters"],
            schema=schema,
            layout=_layout(files, schema),
            id_type=manifest["id_type"],
            tasks=tuple(manifest["tasks"]),
            user_features=_user_features(files),
            set_wise=_is_set_wise(files),
            cache=manifest["cache"],
            vector_space=manifest["vector_space"],
        )

    @property
    def has_user_tower(self) -> bool:
        """Whether it turns user features into query vectors."""
        return self.user_features is not None

    @property
    def partitions(self) -> int:
        """Number of partitions P."""
        return len(self.partition_items)

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return self.schema.vector.dimension

    @property
    def cache_type(self) -> torch.dtype:
        """The type of `cache`."""
        return CACHE_TYPES[self.cache]

    @property
    def metric(self) -> Literal["ip", "cosine"]:
        """How vectors are compared."""
        return self.schema.vector.metric

    def items_in(self, partitions: tuple[int, ...]) -> int:
        """Number of items in some partitions.

        Raises:
            SnapshotError: there is no such partition.
        """
        for number in partitions:
            if not 0 <= number < self.partitions:
                raise SnapshotError(f"{self.path}: has no partition {number}; it has {self.partitions}")
        return sum(self.partition_items[number] for number in partitions)


def _layout(files: SnapshotFiles, schema: Schema) -> PlaneLayout:
    document = files.json(LAYOUT)
    try:
        return PlaneLayout.from_json(document).check(schema)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SnapshotError(f"{files.path / LAYOUT}: not a layout of this schema: {printable(str(error))}") from error


def _is_set_wise(files: SnapshotFiles) -> bool:
    model = files.manifest["model"] or {}
    if "overarch" not in model:
        return False
    try:
        return model["overarch"]["scorer"] in SET_WISE_SCORERS
    except (KeyError, TypeError) as error:
        raise SnapshotError(f"{files.path}: its scorer's description is not readable: {error!r}") from error


def _user_features(files: SnapshotFiles) -> UserFeatures | None:
    model = files.manifest["model"] or {}
    if "tower" not in model:
        return None
    try:
        return features_from(model)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise SnapshotError(f"{files.path}: its model's description is not readable: {error!r}") from error
