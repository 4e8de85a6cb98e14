"""Snapshot files: a manifest that names and hashes everything, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from silverray.shard.api import SnapshotError
from silverray.shard.paths import as_path
from silverray.shard.printing import printable
from silverray.shard.schema.mistakes import describe_mistake
from silverray.shard.snapshot.documents import array_bytes, header_bytes, parse_json, read_json, require_short
from silverray.shard.snapshot.manifest import MOST, Manifest, checksum, plain_name

FORMAT = 2
"""2 since keys and clusters have files of their own (decision 7.4). It goes up when older releases could not read
what is written."""
MANIFEST = "manifest.json"
INDEX = "index.safetensors"
LAYOUT = "layout.json"
MODEL = "model"
SCORER_WEIGHTS = "overarch.safetensors"
# The files of a partition.
KEYS = "keys.safetensors"
ITEMS = "items.safetensors"
COLUMNS = "columns.safetensors"
PAYLOAD = "payload.arrow"


def partition_folder(number: int) -> str:
    """The folder of a partition, relative to the snapshot."""
    return f"partitions/{number:05d}"


@dataclass(frozen=True, slots=True)
class SnapshotFiles:
    """A published snapshot's directory and its checked manifest."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> SnapshotFiles:
        """Read the manifest and check that it is whole and that every file it names is there.

        Args:
            path: the snapshot's directory.

        Returns:
            The snapshot; file contents are checked as they are read.

        Raises:
            SnapshotError: the manifest is missing or altered, a file is missing or has another size.
        """
        path = as_path("path", path)
        file = path / MANIFEST
        manifest = _sealed(file)
        if (found := manifest.get("format")) != FORMAT:
            raise SnapshotError(f"{file}: has format {_said(found)}; this version reads format {FORMAT}")
        try:
            Manifest.model_validate(manifest)
        except ValidationError as error:
            mistakes = error.errors(include_url=False)
            raise SnapshotError(f"{file}: {printable(describe_mistake(mistakes[0]))}") from None
        for name in _names(len(manifest["partition_items"])):
            if name not in manifest["files"]:
                raise SnapshotError(f"{file}: files: {name} is missing")
        folders: set[Path] = set()
        for name, entry in manifest["files"].items():
            if (size := _plain_size(path, name, folders)) != entry["bytes"]:
                raise SnapshotError(f"{path / name}: has {size} bytes, expected {entry['bytes']}")
        return cls(path, manifest)

    def read(self, name: str) -> bytes:
        """Read a file and check its SHA-256.

        Args:
            name: path relative to the snapshot.

        Returns:
            Its bytes.

        Raises:
            SnapshotError: the file is not part of the snapshot, cannot be read, or was altered.
        """
        file = self.path / name
        if name not in self.manifest["files"]:
            raise SnapshotError(f"{file}: not part of the snapshot")
        try:
            content = file.read_bytes()
        except OSError as error:
            raise SnapshotError(f"{file}: cannot be read: {error}") from error
        if hashlib.sha256(content).hexdigest() != self.manifest["files"][name]["sha256"]:
            raise SnapshotError(f"{file}: altered or damaged (its SHA-256 does not match the manifest)")
        return content

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Read a safetensors file, checked as by `read`."""
        content = self.read(name)
        try:
            header_bytes(content[:8])
            tensors: dict[str, Tensor] = load(content)
        except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise SnapshotError(f"{self.path / name}: no readable arrays: {error!r}") from error
        return tensors

    def json(self, name: str) -> Any:
        """Read a file of JSON, checked as by `read`."""
        try:
            require_short(self.bytes_of(name))
            return parse_json(self.read(name))
        except ValueError as error:
            raise SnapshotError(f"{self.path / name}: {error}") from None

    def bytes_of(self, name: str) -> int:
        """Size of a file."""
        size: int = self.manifest["files"][name]["bytes"]
        return size

    def array_bytes(self, name: str) -> int:
        """Size of the arrays of a safetensors file, whose content is not checked.

        Raises:
            SnapshotError: it has none.
        """
        try:
            return array_bytes(self.path / name)
        except (OSError, ValueError) as error:
            raise SnapshotError(f"{self.path / name}: no readable arrays: {error}") from None

    def verify(self) -> Iterator[str]:
        """Check every file, yielding its name once it is found good.

        Raises:
            SnapshotError: at the first file that is not.
        """
        for name in self.manifest["files"]:
            self.read(name)
            yield name


def write_tensors(tensors: dict[str, Tensor], file: Path) -> None:
    """Write tensors to a safetensors file."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Hash every file of a folder, flush all to disk and write the manifest.

    Args:
        folder: directory of the snapshot; every file in it becomes part of the snapshot.
        facts: the manifest's other entries, as JSON values.
    """
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor() as pool:
        files = dict(zip(names, pool.map(_seal, (folder / name for name in names)), strict=True))
    seal({"format": FORMAT, **facts, "files": files}, folder / MANIFEST)
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        sync(path)


def seal(manifest: Mapping[str, Any], file: Path) -> None:
    """Write a manifest with its checksum, and flush it to disk."""
    with file.open("w") as stream:
        json.dump({**manifest, "checksum": checksum(manifest)}, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())


def version_folder(store: Path, version: str | None = None) -> Path:
    """The folder of a version, by default of the newest.

    Raises:
        SnapshotError: the name is none, or see `newest_version`.
    """
    if version is None:
        return store / newest_version(store)
    try:
        return store / plain_name(version)
    except ValueError as error:
        raise SnapshotError(f"version: {error}") from None


def newest_version(store: Path) -> str:
    """Name of the version published last, as versions say themselves: copying them, or touching them, changes nothing.

    Versions of earlier releases, which say nothing, come before all others.

    Raises:
        SnapshotError: the store holds none, a manifest is damaged, or it cannot be told which is the newest.
    """
    numbers = {folder.name: number_of(folder) for folder in published(store)}
    if not numbers:
        raise SnapshotError(f"{store}: holds no published snapshot")
    newest = sorted(name for name, number in numbers.items() if number == max(numbers.values()))
    if len(newest) > 1:
        reason = (
            f"all have the number {numbers[newest[0]]}" if numbers[newest[0]] else "earlier releases did not note it"
        )
        raise SnapshotError(
            f"{store}: cannot tell which of {', '.join(newest)} was published last ({reason}); name the version to"
            " serve, or move the others elsewhere"
        )
    return newest[0]


def number_of(version: Path) -> int:
    """A version's place among those of its store; 0 where an earlier release published it.

    Raises:
        SnapshotError: its manifest is damaged.
    """
    number = _sealed(version / MANIFEST).get("number", 0)
    if type(number) is not int or not 0 <= number <= MOST:
        raise SnapshotError(f"{version / MANIFEST}: number: expected 1 to {MOST}, got {_said(number)}")
    return number


def published(store: Path) -> list[Path]:
    """The folders of a store's versions, by name; a link to one of them is none."""
    folders = sorted((file.parent for file in store.glob(f"[!.]*/{MANIFEST}")), key=lambda folder: folder.is_symlink())
    versions = {folder.resolve(): folder for folder in reversed(folders)}
    return sorted(versions.values())


def least_seq(store: Path) -> int:
    """Least log sequence number that a published version includes: the log is kept from there on.

    Raises:
        SnapshotError: a version is damaged, or there is none.
    """
    if not (versions := published(store)):
        raise SnapshotError(f"{store}: holds no published snapshot")
    return min(int(SnapshotFiles.open(version).manifest["seq"]) for version in versions)


def _sealed(file: Path) -> dict[str, Any]:
    """A manifest that is as it was sealed, whatever it says."""
    try:
        manifest = read_json(file)
    except (FileNotFoundError, NotADirectoryError):
        raise SnapshotError(f"{file}: not found; {file.parent} is not a published snapshot") from None
    except (OSError, ValueError) as error:
        raise SnapshotError(f"{file}: cannot be read: {error}") from error
    if not isinstance(manifest, dict) or not _is_as_sealed(manifest):
        raise SnapshotError(f"{file}: altered or damaged (its checksum does not match)")
    return manifest


def _said(value: object) -> str:
    """What a manifest says where a number was expected."""
    return str(value) if type(value) is int and abs(value) <= MOST else f"another {type(value).__name__}"


def _is_as_sealed(manifest: Mapping[str, Any]) -> bool:
    try:
        return bool(manifest.get("checksum") == checksum(manifest))
    except RecursionError:  # writing JSON bears less nesting than reading it
        return False


def _names(partitions: int) -> Iterator[str]:
    """The files that every snapshot has."""
    yield from (INDEX, LAYOUT)
    for number in range(partitions):
        yield from (f"{partition_folder(number)}/{name}" for name in (KEYS, ITEMS, COLUMNS, PAYLOAD))


def _plain_size(snapshot: Path, name: str, folders: set[Path]) -> int:
    """Size of a regular file that no link leads to; `folders` are those that were seen already."""
    file = snapshot / name
    for parent in (snapshot / folder for folder in Path(name).parents if folder.parts):
        if parent not in folders and parent.is_symlink():
            raise SnapshotError(f"{parent}: expected a folder, got a link")
        folders.add(parent)
    if file.is_symlink():
        raise SnapshotError(f"{file}: expected a file, got a link")
    if not file.is_file():
        raise SnapshotError(f"{file}: missing")
    return file.stat().st_size


def _seal(file: Path) -> dict[str, Any]:
    """Flush a file to disk and describe it."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        os.fsync(stream.fileno())
    return {"bytes": file.stat().st_size, "sha256": digest}


def sync(folder: Path) -> None:
    """Flush a folder's list of files to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
