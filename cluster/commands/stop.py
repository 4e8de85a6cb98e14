"""`silverray stop`."""

from __future__ import annotations

import os
import signal
import time

from silverray.cluster.commands.terminal import notes
from silverray.cluster.serving.readiness import ServiceError
from silverray.cluster.serving.records import ServiceRecord, is_held, read_records, remove_record
from silverray.cluster.serving.service import withdraw_from

_STOP_S = 90.0
"""The process waits up to 60 s for its applications and half a minute for Serve before it gives up by itself."""
_POLL_S = 0.1
"""A lock of a file is tried each time, which costs nothing; a person waits for the last one."""


def run_stop(name: str | None, address: str | None) -> None:
    """Stop a service and wait until it is gone.

    Raises:
        ValueError: it is not clear which service is meant, or there is none of that name.
        ServiceError: it does not stop.
    """
    if address is not None:
        if name is None:
            raise ValueError("name the service to stop on that cluster")
        _stop_on_cluster(name, address, ends_serve=False)
        return
    record = _choose(name, read_records())
    if record.pid is not None:
        _stop_process(record, record.pid)
    else:
        assert record.address is not None, "only a cluster of its own lets a service run detached"
        _stop_on_cluster(record.name, record.address, ends_serve=record.ends_serve)
    notes.print(f"stopped {record.name}")


def _choose(name: str | None, records: list[ServiceRecord]) -> ServiceRecord:
    names = ", ".join(record.name for record in records) or "none"
    chosen = [record for record in records if name in (None, record.name)]
    if not chosen:
        raise ValueError(f"no service{f' {name!r}' if name else ''} was started from here (running: {names})")
    if len(chosen) > 1:
        raise ValueError(f"several services run, name one: {names}")
    return chosen[0]


def _stop_process(record: ServiceRecord, pid: int) -> None:
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while is_held(record.name):
        if time.monotonic() > deadline:
            raise ServiceError(f"process {pid} is still stopping {record.name!r} after {_STOP_S:.0f} s")
        time.sleep(_POLL_S)


def _stop_on_cluster(name: str, address: str, *, ends_serve: bool) -> None:
    found = withdraw_from(address, name, end_serve=ends_serve)
    remove_record(name)
    if not found:
        raise ValueError(f"no service {name!r} runs on the Ray cluster at {address}")
