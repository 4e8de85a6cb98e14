"""A snapshot's manifest: what it may say. Anybody can seal a manifest, so nothing in it is believed unseen."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from silverray.shard.schema.schema import Schema

MOST_PARTITIONS = 65_536
"""The manifest names the files of each and has 40 MB then; a folder's name has room for five digits."""
MOST_NAME_BYTES = 200
"""Longest name of a version: file systems take 255 bytes, and its draft has a longer one."""
MOST = 2**53 - 1
"""Largest number: the largest that every reader of JSON reads exactly."""


CLAIM = "log.json"
"""The file of a store that names the log of its updates; it lies beside the versions."""


def plain_name(name: str) -> str:
    """Check that a version's name can be a folder's, and printed.

    Raises:
        ValueError: it cannot.
    """
    good = isinstance(name, str) and name.isprintable() and "/" not in name and not name.startswith(".")
    if not (good and 1 <= len(name.encode()) <= MOST_NAME_BYTES):
        form = f"1 to {MOST_NAME_BYTES} bytes, no '/', not starting with '.'"
        raise ValueError(f"expected a plain name ({form}), got {str(name)[:100]!r}")
    return name


def _printable(text: str) -> str:
    if not text.isprintable() or not text:
        raise ValueError(f"expected printable text, got {text[:100]!r}")
    return text


def _relative_path(name: str) -> str:
    path = PurePosixPath(name)
    if not name.isprintable() or path.is_absolute() or ".." in path.parts or str(path) != name or name == ".":
        raise ValueError(f"expected the path of a file below the snapshot, got {name[:100]!r}")
    return name


Text = Annotated[str, AfterValidator(_printable)]
Count = Annotated[int, Field(ge=0, le=MOST)]
Seq = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[int, Field(ge=1, le=MOST)]


class FileEntry(BaseModel):
    """Size and hash of a file."""

    model_config = ConfigDict(strict=True)

    bytes: Count
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", max_length=64)]


class Build(BaseModel):
    """How a snapshot was made."""

    model_config = ConfigDict(strict=True)

    seed: int
    items_seq: Seq | None = None


class Manifest(BaseModel):
    """What a snapshot says of itself; entries that this release does not know are left alone.

    `number` is its place among the versions of its store; earlier releases wrote none.
    """

    model_config = ConfigDict(strict=True)

    number: Number | None = None
    version: Annotated[str, AfterValidator(plain_name)]
    seq: Seq
    id_type: Literal["int", "string"]
    catalog: Schema = Field(alias="schema")
    partition_items: Annotated[list[Count], Field(min_length=1, max_length=MOST_PARTITIONS)]
    clusters: Annotated[int, Field(ge=1, lt=2**31)]
    cache: Literal["fp32", "bf16"]
    vector_space: Text
    tasks: Annotated[list[Text], Field(min_length=1)]
    model: dict[str, Any] | None
    build: Build
    files: dict[Annotated[str, AfterValidator(_relative_path)], FileEntry]

    @model_validator(mode="after")
    def _check_model(self) -> Self:
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("tasks: expected each task once")
        if not self.catalog.id.isprintable():
            raise ValueError(f"schema.id: expected printable text, got {self.catalog.id!r}")
        if self.model is None:
            return self
        dimension = self.catalog.vector.dimension
        if self.model.get("dimension") != dimension:
            raise ValueError(f"model.dimension: expected {dimension}, as in the schema")
        if self.model.get("tasks") != self.tasks:
            raise ValueError(f"model.tasks: expected {', '.join(self.tasks)}, as in tasks")
        return self


def checksum(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest without its checksum."""
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
