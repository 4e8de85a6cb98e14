"""Snapshot stores: directories of published versions."""

from __future__ import annotations

from pathlib import Path

from silverray.shard.api import SnapshotError
from silverray.shard.index.catalog import Catalog
from silverray.shard.index.snapshot import MANIFEST


def open_version(store: Path, version: str | None = None) -> Catalog:
    """Open a version of a snapshot store.

    Args:
        store: directory with one folder per version.
        version: name of the version; None for the one that was published last.

    Raises:
        SnapshotError: there is no such version, or it is damaged.
    """
    if version is not None:
        return Catalog.open(store / version)
    manifests = sorted(store.glob(f"[!.]*/{MANIFEST}"), key=lambda file: file.stat().st_mtime_ns)
    if not manifests:
        raise SnapshotError(f"{store}: holds no published snapshot")
    return Catalog.open(manifests[-1].parent)
