"""Which log the live updates of a snapshot store are in."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from silverray.cluster.log.store import LogReader, check_place
from silverray.cluster.strict_yaml import ConfigError
from silverray.router.errors import LogUnavailable
from silverray.shard.snapshot.documents import read_json
from silverray.shard.snapshot.manifest import CLAIM


class Claim(NamedTuple):
    """The log that a store's updates are in: what it is, and where it was when it claimed the store."""

    identity: str
    path: str
    node: str


def read_claim(store: Path) -> Claim | None:
    """The log that a store's updates are in; None where it was never served with one.

    Raises:
        ConfigError: what the store says cannot be read.
    """
    file = store / CLAIM
    try:
        document = read_json(file)
        claim = Claim(*(document[name] for name in Claim._fields))
        if not all(isinstance(text, str) and text.isprintable() for text in claim):
            raise ValueError(f"expected printable text for {', '.join(Claim._fields)}")
        return claim
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise ConfigError(f"{file}: {type(error).__name__}: {error}") from None


def claim_store(store: Path, log: dict[str, Any]) -> None:
    """Make sure that a log is the one that a store's updates are in; the first log makes the store its own.

    A path that is mistyped, or looked up on another node, would begin an empty log: everything written until then would
    be gone from the answers without a word.

    Args:
        store: the snapshot store.
        log: the log, as `LogWriter.describe` has it, and its node. One that cannot be had now claims nothing, and is
            refused where the store's was last seen elsewhere.

    Raises:
        ConfigError: the store's updates are in another log, or the store cannot be written.
    """
    file, claim, lacks = store / CLAIM, read_claim(store), "error" in log
    if claim is None:
        if not lacks:
            _write(file, Claim(*(log[name] for name in Claim._fields)))
        return
    elsewhere = (claim.path, claim.node) != (log["path"], log["node"])
    if (log.get("other") or elsewhere) if lacks else claim.identity != log["identity"]:
        raise _other_log(store, claim, log["path"], log["node"])


def check_log(store: Path, path: Path, node: str) -> None:
    """Refuse a log that this machine cannot have, before anything is started for it.

    A store that has one is served without it as long as its disk is missing.

    Args:
        store: the snapshot store.
        path: where the log shall be.
        node: what this machine is called.

    Raises:
        ConfigError: no log can be kept there, or the store's updates are in another one.
    """
    claim = read_claim(store)
    if claim is None:
        try:
            check_place(path)
        except LogUnavailable as error:
            raise ConfigError(f"log.path: {error.message}") from None
    elif (claim.path, claim.node) != (str(path), node) and not path.exists():
        raise _other_log(store, claim, str(path), node)


def withdraw_claim(store: Path) -> None:
    """Take a claim back that was just made, of a log that holds nothing."""
    (store / CLAIM).unlink(missing_ok=True)


def open_claimed(store: Path, path: Path | None = None) -> LogReader:
    """Open the log that a store's updates are in, beside its writer.

    Args:
        store: the snapshot store.
        path: where the log's file is, if no longer where the store says.

    Raises:
        ConfigError: the store has no log, or the file is another one.
        LogUnavailable: the file cannot be read.
    """
    claim = read_claim(store)
    if claim is None:
        raise ConfigError(f"{store / CLAIM}: not found; {store} was never served with a log")
    path = path or Path(claim.path)
    if not path.exists():
        raise ConfigError(f"{path}: not found; the log is on {claim.node}, or where --log says")
    log = LogReader(path)
    if log.state().identity != claim.identity:
        log.close()
        raise ConfigError(f"{path}: is another log than the one that the updates of {store} are in")
    return log


def _other_log(store: Path, claim: Claim, path: str, node: str) -> ConfigError:
    return ConfigError(
        f"log.path: the updates of {store} are in the log {claim.path} on {claim.node}, not in {path}"
        f" on {node}; remove {store / CLAIM} to go on without them"
    )


def _write(file: Path, claim: Claim) -> None:
    draft = file.with_name(f".{CLAIM}")
    try:
        with draft.open("w", encoding="utf-8") as stream:
            json.dump(claim._asdict(), stream)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    except OSError as error:
        raise ConfigError(f"{file}: {error}") from None
