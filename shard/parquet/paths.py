"""The files that a path stands for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from silverray.shard.parquet.rows import TableError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
_TABLES = {"_delta_log": "a table of Delta Lake", ".hoodie": "a table of Hudi"}
"""Folders by which other tools tell which of the files beside them count."""
_ICEBERG = "metadata"
"""Likewise, where it holds such files as `v1.metadata.json`; others have folders of this name too."""


def parquet_files(path: Path) -> list[Path]:
    """A file, or all those in a folder and the folders below, in the order of their names.

    Those whose name, or a folder's, begins with `.` or `_` are none, as other tools have it.

    Raises:
        TableError: there is none; the message names the path.
    """
    require_local(path)
    try:
        for folder in path.resolve().parents:
            _refuse_table(folder, path)
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise TableError(f"{path}: {'expected a file or a folder' if path.exists() else 'no such file'}")
        found = sorted(_below(path), key=str)
    except OSError as error:
        raise TableError(f"{error.filename or path}: cannot be read: {error.strerror}") from None
    if not found:
        raise TableError(f"{path}: holds no Parquet file")
    return found


def require_local(path: Path) -> None:
    """See that a path is none of another machine.

    Raises:
        TableError: it is.
    """
    if is_url(path):
        raise TableError(f"{path}: only local paths are read; copy it to this machine first")


def is_url(path: Path) -> bool:
    """Whether a path begins as an address does, such as `s3://`, and is no file of that name."""
    return _URL.match(str(path)) is not None and not path.exists()


def _refuse_table(folder: Path, path: Path) -> None:
    """Refuse the folder of a table whose own records say which of its files and rows count.

    Args:
        folder: may be one.
        path: what the message names: it, or what lies in it.

    Raises:
        TableError: it is one.
    """
    kind = next((kind for mark, kind in _TABLES.items() if (folder / mark).is_dir()), None)
    if kind is None and next((folder / _ICEBERG).glob("*.metadata.json"), None):
        kind = "a table of Iceberg"
    if kind:
        told = kind if folder == path else f"lies in {folder}: {kind}"
        raise TableError(f"{path}: {told} keeps rows that it has deleted; write its rows to Parquet")


def _below(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The files below a folder, through links too; one that leads back to a folder `above` adds none."""
    if (place := folder.resolve()) in above:
        return
    _refuse_table(folder, folder)
    for child in folder.iterdir():
        if child.name.startswith((".", "_")):
            continue
        if child.is_dir():
            yield from _below(child, (*above, place))
        elif child.is_file():
            yield child
        else:
            raise TableError(f"{child}: {'expected a file or a folder' if child.exists() else 'no such file'}")
