"""`silverray serve`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import httpx

from silverray.cluster.commands.terminal import notes, results, told_progress
from silverray.cluster.config import ServeConfig
from silverray.cluster.serving.readiness import ServiceError
from silverray.cluster.serving.records import (
    RecordHolder,
    ServiceRecord,
    check_free,
    hold_record,
    read_records,
    records_folder,
)
from silverray.cluster.serving.service import Service, start
from silverray.cluster.signals import stopped_by_signals

_POLL_S = 0.1
"""How often a detached start's log is read: a person sees each line at once, and it is a short file."""


def run_serve(
    file: Path,
    *,
    shards: int | None,
    replicas: int | None,
    address: str | None,
    detach: bool,
    insecure: bool,
    timeout_s: float | None = None,
) -> None:
    """Serve until a signal ends it; detached, or where a running service was changed, until it answers."""
    config = ServeConfig.load(file, shards=shards, replicas=replicas)
    if detach and address is None:
        _serve_in_background(file, config, insecure, timeout_s)
        return
    with stopped_by_signals(), hold_record(config.name, keep=detach) as holder:
        with told_progress("starting") as tell:
            service = start(config, address, insecure=insecure, progress=tell, timeout_s=timeout_s)
        if detach or not service.started:
            _announce(service, holder, pid=None)
            service.detach()
            if not detach:
                notes.print(f"{config.name} ran before: it was changed, and goes on without this command")
            return
        try:
            _announce(service, holder, pid=os.getpid())
            while True:
                time.sleep(1)
        except KeyboardInterrupt:
            notes.print("stopping")
        finally:
            service.stop()


def _announce(service: Service, holder: RecordHolder, pid: int | None) -> None:
    instance, before = service.instance, holder.read_detached()
    holder.write(
        ServiceRecord(
            name=service.name,
            url=service.url,
            address=instance.address,
            pid=pid,
            ends_serve=instance.started or (before is not None and before.ends_serve),
        )
    )
    if not _throughput(service.url):
        notes.print(
            "warning: Serve runs on this cluster already, without its throughput settings: expect far fewer requests "
            "per second. End it there (serve shutdown) and serve again to change that.",
            style="yellow",
        )
    results.print(f"ready {service.url}", highlight=False, soft_wrap=True)


def _throughput(url: str) -> bool:
    try:
        document = httpx.get(f"{url}/v1/status", trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return True
    return bool(document.get("throughput_optimized", True))


def _serve_in_background(file: Path, config: ServeConfig, insecure: bool, timeout_s: float | None) -> None:
    """Start this command again as a process of its own, and wait until it answers."""
    check_free(config.name)  # before the log of the one that runs is written over
    folder = records_folder()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{config.name}.log"
    counts = ["--shards", str(config.shards), "--replicas", str(config.replicas)]
    command = [sys.executable, "-P", "-m", "silverray.cluster.cli", "serve", str(file.resolve()), *counts]
    command += ["--insecure"] if insecure else []
    command += ["--timeout", f"{timeout_s}s"] if timeout_s else []
    with log.open("w", encoding="utf-8") as output, told_progress("starting") as tell:
        tell(f"starting; log in {log}")
        process = _spawn(command, output)
        try:
            while not (ours := [r for r in read_records() if r.pid == process.pid]):
                ended = process.poll() is not None  # asked first: then its last line is there
                lines = log.read_text(encoding="utf-8").strip().splitlines() or [""]
                if ended:
                    raise ServiceError(f"{lines[-1].removeprefix('error: ') or 'no message'} (log: {log})")
                if lines[-1]:
                    tell(lines[-1])
                time.sleep(_POLL_S)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    results.print(f"ready {ours[0].url}", highlight=False, soft_wrap=True)


def _spawn(command: list[str], output: IO[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
