"""How this process starts Ray, on loopback and for this account alone, and how it joins a Ray that runs."""

from __future__ import annotations

import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.authentication.authentication_utils import is_token_auth_enabled

from silverray.cluster.strict_yaml import ConfigError

# Shards hand long replies over through it; more is memory that shards lack.
_OBJECT_STORE_BYTES = 512 << 20
_TOKEN_WARNINGS = "ray._private.authentication.authentication_token_setup"
_PRIVATE = 0o077
"""As `umask` takes it: what is made meanwhile is for its owner alone."""
_REACH_S = 1.0
"""To an address of this machine: answered or refused in less than a millisecond, unless a firewall swallows it."""
LOOPBACK = "127.0.0.1"
# Ray decides by this whether a node may be addressed as 127.0.0.1. It is meant for desktops; servers then listen there.
_LOOPBACK_SWITCH = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
_SETTINGS = {
    _LOOPBACK_SWITCH: "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray's workers, and so shards and routers, otherwise come after everything else that the machine does.
    "RAY_worker_niceness": "0",
}


def start_ray(cpus: int) -> None:
    """Start a Ray cluster on this machine that ends with this process.

    Its processes listen on loopback only, have this process's priority, and keep their files where no other account
    can read them.

    Args:
        cpus: number of CPUs that it claims to have.

    Raises:
        ConfigError: the folder for its files belongs to another account.
    """
    folder = private_folder() / "ray"
    with _environment(_SETTINGS), _loopback(), _private_files(), _own_modules():
        ray.init(
            "local",
            include_dashboard=False,
            num_cpus=cpus,
            object_store_memory=_OBJECT_STORE_BYTES,
            _node_ip_address=LOOPBACK,
            _temp_dir=str(folder),
            **_quiet(),
        )


def join_ray(address: str) -> None:
    """Connect to a Ray cluster.

    Args:
        address: of the cluster.

    Raises:
        ConfigError: the cluster cannot be reached.
    """
    with _silent_stderr():  # Ray's way to find this machine's address complains where there is no internet
        here = ray.util.get_node_ip_address()
    if not _reaches(address, here):
        here = LOOPBACK
    try:
        with _loopback() if here == LOOPBACK else nullcontext(), _own_modules():
            ray.init(address, _node_ip_address=here, **_quiet())
    except (ConnectionError, RuntimeError, ValueError) as error:
        hint = "if that cluster uses Ray's token authentication, set RAY_AUTH_MODE=token"
        raise ConfigError(f"address: {str(error).splitlines()[0]} ({hint})") from None


def takes_calls_from_anybody() -> bool:
    """Whether the connected cluster runs the code of whoever reaches its ports: it asks for no tokens."""
    return not is_token_auth_enabled()


def private_folder() -> Path:
    """The folder of this account for files of running clusters, which no other account can enter.

    Its path is short, since sockets lie below it: Unix allows them 107 bytes.

    Raises:
        ConfigError: it belongs to another account.
    """
    base = Path(os.environ.get("RAY_TMPDIR") or ("/tmp" if Path("/tmp").is_dir() else tempfile.gettempdir()))
    folder = base / f"silverray-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if facts.st_uid != os.getuid() or folder.is_symlink():
        raise ConfigError(f"{folder}: belongs to another account; set RAY_TMPDIR to a folder of yours")
    folder.chmod(0o700)
    return folder


def _reaches(address: str, here: str) -> bool:
    """Whether a cluster of this machine listens on more than loopback; Ray asks for it at the machine's address."""
    host, _, port = address.rpartition(":")
    if host not in ("localhost", LOOPBACK) or not port.isdecimal():
        return True
    try:
        socket.create_connection((here, int(port)), _REACH_S).close()
    except OSError:
        return False
    return True


def _quiet() -> dict[str, Any]:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    logging.getLogger(_TOKEN_WARNINGS).setLevel(logging.ERROR)  # `serve` refuses clusters without tokens by itself
    return {"logging_level": "WARNING", "log_to_driver": False}


@contextmanager
def _environment(settings: dict[str, str]) -> Iterator[None]:
    """Set variables for the processes that are started meanwhile; those that are set already stay."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _loopback() -> Iterator[None]:
    """Let this process's Ray take 127.0.0.1 for a node's address, which it otherwise replaces by the machine's."""
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _private_files() -> Iterator[None]:
    before = os.umask(_PRIVATE)
    try:
        yield
    finally:
        os.umask(before)


@contextmanager
def _own_modules() -> Iterator[None]:
    """Let workers import what this process does: Ray has them look in the working directory before anywhere else.

    There any `numpy.py` would stand for numpy, and the directory may be gone. Where this process itself imports from
    there, as notebooks do, it stays.
    """
    here = os.open(".", os.O_RDONLY)  # unlike its path, it is had of a directory that was deleted
    try:
        if not any(_is_open_as(here, folder) for folder in sys.path):
            os.chdir("/")
        yield
    finally:
        os.fchdir(here)
        os.close(here)


def _is_open_as(folder: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(folder), Path(path).stat())
    except OSError:  # most of what stands in `sys.path` need not exist
        return False


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Drop what native code writes to standard error."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
