"""Snapshot files: a manifest that names and hashes everything, written whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from silverray.shard.api import SnapshotError

FORMAT = 2
MANIFEST = "manifest.json"
INDEX = "index.safetensors"
LAYOUT = "layout.json"
MODEL = "model"
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
    def open(cls, path: Path) -> SnapshotFiles:
        """Read the manifest and check that it is whole and that every file it names is there.

        Args:
            path: the snapshot's directory.

        Returns:
            The snapshot; file contents are checked as they are read.

        Raises:
            SnapshotError: the manifest is missing or altered, a file is missing or has another size.
        """
        file = path / MANIFEST
        try:
            manifest = json.loads(file.read_bytes())
        except FileNotFoundError:
            raise SnapshotError(f"{file}: not found; {path} is not a published snapshot") from None
        except (OSError, ValueError) as error:
            raise SnapshotError(f"{file}: cannot be read: {error}") from error
        if not isinstance(manifest, dict) or manifest.get("checksum") != _checksum(manifest):
            raise SnapshotError(f"{file}: altered or damaged (its checksum does not match)")
        if manifest["format"] != FORMAT:
            raise SnapshotError(f"{file}: has format {manifest['format']}; this version reads format {FORMAT}")
        for name, entry in manifest["files"].items():
            if not (path / name).is_file():
                raise SnapshotError(f"{path / name}: missing")
            if (size := (path / name).stat().st_size) != entry["bytes"]:
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
        try:
            tensors: dict[str, Tensor] = load(self.read(name))
        except SafetensorError as error:
            raise SnapshotError(f"{self.path / name}: {error}") from error
        return tensors

    def bytes_of(self, name: str) -> int:
        """Size of a file."""
        size: int = self.manifest["files"][name]["bytes"]
        return size

    def array_bytes(self, name: str) -> int:
        """Size of the arrays of a safetensors file, whose content is not checked."""
        with (self.path / name).open("rb") as stream:
            header = int.from_bytes(stream.read(8), "little")
        return self.bytes_of(name) - 8 - header

    def verify(self) -> Iterator[str]:
        """Check every file, yielding its name once it is found good.

        Raises:
            SnapshotError: at the first file that is not.
        """
        for name in self.manifest["files"]:
            self.read(name)
            yield name


@contextmanager
def new_snapshot(store: Path, version: str) -> Iterator[Path]:
    """Give a temporary directory that becomes `store/version` when the block ends without an error.

    Args:
        store: directory of versions, made if need be.
        version: name of the new one.

    Yields:
        The directory to fill; `write_manifest` is called on it last.

    Raises:
        SnapshotError: the version exists already.
    """
    if (store / version).exists():
        raise SnapshotError(f"{store / version}: exists already; published versions are never changed")
    store.mkdir(parents=True, exist_ok=True)
    temporary = Path(mkdtemp(prefix=f".{version}-", dir=store))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.rename(store / version)
        _sync(store)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    manifest = {"format": FORMAT, **facts, "files": files}
    manifest["checksum"] = _checksum(manifest)
    with (folder / MANIFEST).open("w") as stream:
        json.dump(manifest, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    for path in [folder, *(path for path in folder.rglob("*") if path.is_dir())]:
        _sync(path)


def newest_version(store: Path) -> str:
    """Name of the version published last.

    Raises:
        SnapshotError: the store holds none.
    """
    manifests = [(file.stat().st_mtime_ns, file.parent.name) for file in store.glob(f"[!.]*/{MANIFEST}")]
    if not manifests:
        raise SnapshotError(f"{store}: holds no published snapshot")
    return max(manifests)[1]


def least_seq(store: Path) -> int:
    """Least log sequence number that a published version includes: the log is kept from there on.

    Raises:
        SnapshotError: a version is damaged, or there is none.
    """
    versions = [file.parent for file in store.glob(f"[!.]*/{MANIFEST}")]
    if not versions:
        raise SnapshotError(f"{store}: holds no published snapshot")
    return min(int(SnapshotFiles.open(version).manifest["seq"]) for version in versions)


def _seal(file: Path) -> dict[str, Any]:
    """Flush a file to disk and describe it."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        os.fsync(stream.fileno())
    return {"bytes": file.stat().st_size, "sha256": digest}


def _checksum(manifest: dict[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
