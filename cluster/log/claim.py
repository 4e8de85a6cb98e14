"""Which log the live updates of a snapshot store are in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from silverray.cluster.log.store import LogReader
from silverray.cluster.sections import ConfigError

CLAIM = "log.json"


def claim_store(store: Path, log: dict[str, Any]) -> None:
    """Make sure that a log is the one that a store's updates are in; the first log makes the store its own.

    A path that is mistyped, or looked up on another node, would begin an empty log: everything written until then would
    be gone from the answers without a word.

    Args:
        store: the snapshot store.
        log: the log, as `LogWriter.describe` has it.

    Raises:
        ConfigError: the store's updates are in another log, or the store cannot be written.
    """
    file = store / CLAIM
    try:
        if not file.exists():
            _write(file, {name: log[name] for name in ("identity", "path", "node")})
        claim = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: {error}") from None
    if claim["identity"] != log["identity"]:
        raise ConfigError(
            f"log.path: the updates of {store} are in the log {claim['path']} on {claim['node']}, not in {log['path']}"
            f" on {log['node']}; remove {file} to go on without them"
        )


def open_claimed(store: Path, path: Path | None = None) -> LogReader:
    """Open the log that a store's updates are in, beside its writer.

    Args:
        store: the snapshot store.
        path: where the log's file is, if no longer where the store says.

    Raises:
        ConfigError: the store has no log, or the file is another one.
        LogUnavailable: the file cannot be read.
    """
    file = store / CLAIM
    try:
        claim = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: not found; {store} was never served with a log") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: {error}") from None
    path = path or Path(claim["path"])
    if not path.exists():
        raise ConfigError(f"{path}: not found; the log is on {claim['node']}, or where --log says")
    log = LogReader(path)
    if log.state().identity != claim["identity"]:
        log.close()
        raise ConfigError(f"{path}: is another log than the one that the updates of {store} are in")
    return log


def _write(file: Path, claim: dict[str, Any]) -> None:
    draft = file.with_name(f".{CLAIM}")
    with draft.open("w", encoding="utf-8") as stream:
        json.dump(claim, stream)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)
