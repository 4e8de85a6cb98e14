"""Snapshot stores: how a version comes into one, whole or not at all, and which place it takes among the others."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from safetensors import SafetensorError

from silverray.shard.api import SnapshotError
from silverray.shard.snapshot.documents import read_json
from silverray.shard.snapshot.files import INDEX, LAYOUT, MANIFEST, MODEL, number_of, published, seal, sync

_DRAFT = re.compile(r"\..+-[0-9a-z_]{8}")
_PARTS = {"partitions", INDEX, LAYOUT, MANIFEST, MODEL}
"""All that a draft holds: what holds anything else is none, whatever its name is."""


@contextmanager
def new_snapshot(store: Path, version: str) -> Iterator[Path]:
    """Give a temporary directory that becomes `store/version` when the block ends without an error.

    It becomes the newest version then. What publishers that were killed left in the store is removed first.

    Args:
        store: directory of versions, made if need be.
        version: name of the new one.

    Yields:
        The directory to fill; `write_manifest` is called on it last.

    Raises:
        SnapshotError: the version exists already, or another one's manifest is damaged.
        OSError: it cannot be written.
    """
    final = store / version
    _refuse_present(final)
    try:
        store.mkdir(parents=True, exist_ok=True)
        with _locked(store):
            for leftover in leftovers(store):
                shutil.rmtree(leftover, ignore_errors=True)
            draft = store / f".{version}-{token_hex(4)}"
            draft.mkdir()
            held = _lock(draft)
        try:
            yield draft
            with _locked(store):
                _refuse_present(final)
                _take_number(draft, store)
                draft.rename(final)
                sync(store)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            os.close(held)
    except (OSError, SafetensorError) as error:
        raise _not_written(store, version, error) from error


def leftovers(store: Path) -> list[Path]:
    """Folders of publishers that ended before they were done; those of publishers at work are locked."""
    found = []
    for folder in store.glob(".*-????????"):
        if not _DRAFT.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
            continue
        if _is_free(folder):
            found.append(folder)
    return sorted(found)


def _refuse_present(final: Path) -> None:
    if os.path.lexists(final):
        raise SnapshotError(f"{final}: exists already; published versions are never changed")


def _take_number(draft: Path, store: Path) -> None:
    """Make a draft the newest version of a store, which is locked."""
    file = draft / MANIFEST
    manifest = read_json(file)
    seal({**manifest, "number": 1 + max(map(number_of, published(store)), default=0)}, file)


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    """Keep other publishers out."""
    handle = _lock(store)
    try:
        yield
    finally:
        os.close(handle)


def _lock(folder: Path) -> int:
    """Lock a folder until the handle is closed, or the process ends however it does.

    Where the file system has no locks, two publishers at once may take the same number: `newest_version` tells.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:
        return handle
    except BaseException:
        os.close(handle)
        raise
    return handle


def _is_free(folder: Path) -> bool:
    """Whether a folder is a draft, and nobody's."""
    try:
        if not {path.name for path in folder.iterdir()} <= _PARTS:
            return False
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # not ours to read
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _is_elsewhere(error: OSError, store: Path) -> bool:
    """Whether an error names a file that is no part of a draft."""
    return error.filename is not None and not Path(os.fsdecode(error.filename)).is_relative_to(store)


def _not_written(store: Path, version: str, error: OSError | SafetensorError) -> OSError:
    """One error for all that writing may end in, which names the store rather than a draft that is gone."""
    reason = str(error)
    if isinstance(error, shutil.Error):  # of a model that is copied: a list of what went wrong with which file
        reason = str(error.args[0][0][2])
    elif isinstance(error, OSError) and error.strerror:
        reason = f"{error.strerror}: {error.filename}" if _is_elsewhere(error, store) else error.strerror
    failed = OSError(f"{store}: version {version} cannot be written: {' '.join(reason.split())}")
    if isinstance(error, OSError):
        failed.errno = error.errno
    return failed
