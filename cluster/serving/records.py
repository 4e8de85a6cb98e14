"""Records of the services that were started from this account, so that `status` and `stop` find them.

A record is a small file. The process that serves in the foreground holds a lock on it, so a record whose process
was killed is known for what it is, whatever process has its number now.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from silverray.cluster.strict_yaml import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRecord:
    """A service that was started.

    Attributes:
        name: its name.
        url: where it answers.
        address: of its Ray cluster; None for one of the serving process.
        pid: the process that serves in the foreground; None when it runs detached on a cluster.
        ends_serve: whether stopping it ends Serve once no application is left.
    """

    name: str
    url: str
    address: str | None
    pid: int | None
    ends_serve: bool


def records_folder() -> Path:
    """Where the records are."""
    return Path.home() / ".cache" / "silverray" / "services"


def read_records() -> list[ServiceRecord]:
    """All records whose service should be there; those of dead processes are removed."""
    records = []
    for file in sorted(records_folder().glob("*.json")):
        try:
            record = _parse(file.read_text(encoding="utf-8"))
        except OSError:
            continue  # being removed
        if record is None:
            continue  # being written
        if record.pid is not None and not is_held(record.name):
            file.unlink(missing_ok=True)
            continue
        records.append(record)
    return records


def remove_record(name: str) -> None:
    """Forget a service."""
    _file(name).unlink(missing_ok=True)


def is_held(name: str) -> bool:
    """Whether a living process serves under this name in the foreground."""
    try:
        with _file(name).open("r+") as file:
            return not _lock(file)
    except FileNotFoundError:
        return False


def check_free(name: str) -> None:
    """Make sure that nobody serves under a name in the foreground.

    Raises:
        ConfigError: another process does.
    """
    if is_held(name):
        raise _taken(name)


class RecordHolder:
    """The record of the service that this process serves.

    Args:
        file: its locked file.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def read_detached(self) -> ServiceRecord | None:
        """The record of a service that runs without a process of its own; None where the file holds none."""
        self._file.seek(0)
        record = _parse(self._file.read())
        return record if record is not None and record.pid is None else None

    def write(self, record: ServiceRecord) -> None:
        """Write or replace the record."""
        # In place: a new file under this name would not be the one that is locked.
        self._file.seek(0)
        self._file.truncate()
        json.dump(asdict(record), self._file)
        self._file.flush()


@contextmanager
def hold_record(name: str, *, keep: bool = False) -> Iterator[RecordHolder]:
    """Hold a service's record for as long as the block runs.

    Args:
        name: the service.
        keep: whether the record stays after a block that ends without an error; one of a detached service stays in
            any case.

    Raises:
        ConfigError: another process serves under this name.
    """
    path = _file(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        if not _lock(file):
            raise _taken(name)
        holder, done = RecordHolder(file), False
        try:
            yield holder
            done = True
        finally:
            # Under the lock still: afterwards the name may be another process's.
            if not (keep and done) and holder.read_detached() is None:
                path.unlink(missing_ok=True)


def _taken(name: str) -> ConfigError:
    return ConfigError(f"name: service {name!r} is served by another process; stop it first")


def _parse(text: str) -> ServiceRecord | None:
    try:
        return ServiceRecord(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _file(name: str) -> Path:
    return records_folder() / f"{name}.json"


def _lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
