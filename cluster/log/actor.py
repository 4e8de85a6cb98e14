"""The log's writer as a Ray actor, and the log as others see it through that actor."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from silverray.cluster.log.writer import LogWriter
from silverray.router.errors import LogUnavailable
from silverray.router.writes.log import LogPage, Reader
from silverray.shard.api import SearchError

NAMESPACE = "silverray"
_SLACK_S = 2.0
"""The call's way, and the loop of a busy writer, beside the wait that was asked for: given up too soon, a reader
would lose a page that is under way."""
_ASK_S = 2.0
"""Answered in milliseconds by a writer that lives; status replies wait for it, and a dead one never answers."""
_START_S = 30.0
"""Ray's process imports and opens the file in a few seconds; ten times that on a busy machine."""
_PINNED = 0.001
"""A node has 1 of the resource of its address. Any part binds the writer to it (decision 12.5), and Ray counts in
steps of 0.0001."""
_CALLS = 10_000
"""Each write and each replica that waits for news is a call that is open; Ray's own 1,000 would let readers keep
writes out."""


class ActorLog:
    """An `UpdateLog` kept by an actor; belongs to one event loop.

    Ray starts a dead writer again, on the node that it is pinned to; calls made meanwhile wait as long as they may.

    Args:
        service: the service whose log it is.
    """

    def __init__(self, service: str) -> None:
        self._service = service
        self._actor: Any = None

    async def append(self, body: bytes, size: int, timeout_s: float) -> int:
        """Append writes; see `UpdateLog.append`."""
        seq: int = await self._ask("append", timeout_s, body, size, timeout_s)
        return seq

    async def read(self, after: int, limit: int, timeout_s: float, reader: Reader | None = None) -> LogPage:
        """Read on from a position; see `UpdateLog.read`."""
        page: LogPage = await self._ask("read", timeout_s + _SLACK_S, after, limit, timeout_s, reader)
        return page

    async def applied(self, seq: int, shards: Sequence[str], timeout_s: float) -> bool:
        """Wait until replicas have applied a number; see `UpdateLog.applied`."""
        done: bool = await self._ask("applied", timeout_s + _SLACK_S, seq, shards, timeout_s)
        return done

    async def trim(self, keep_from: int) -> None:
        """Forget old records; see `UpdateLog.trim`."""
        await self._ask("trim", _ASK_S, keep_from)

    async def describe(self) -> dict[str, Any]:
        """The log's state; see `LogWriter.describe`."""
        state: dict[str, Any] = await self._ask("describe", _ASK_S)
        return state

    async def _ask(self, method: str, timeout_s: float, *args: Any) -> Any:
        call: Any = None
        try:
            async with asyncio.timeout(timeout_s):
                if self._actor is None:
                    self._actor = await asyncio.to_thread(ray.get_actor, _name(self._service), NAMESPACE)
                call = getattr(self._actor, method).remote(*args)
                return await call
        except TimeoutError:
            if call is not None:
                # Left alone it would wait on in the writer, and take one of its calls.
                ray.cancel(call)
            raise LogUnavailable(f"the log's writer did not answer within {timeout_s:.3g} s") from None
        except RayTaskError as error:
            raise _of_the_writer(error) from None
        except ValueError:  # no actor has the name
            raise LogUnavailable(f"service {self._service!r} has no log writer") from None
        except RayError as error:
            # A writer that was ended and made anew is another actor under the same name.
            self._actor = None
            raise LogUnavailable(f"the log's writer is down: {type(error).__name__}") from None


def start_writer(
    service: str, path: Path, start: int, node: str, snapshots: Path, max_bytes: int | None = None
) -> dict[str, Any]:
    """Have a service's writer run on a node, unless it runs already.

    Args:
        service: the service whose log it is.
        path: the log's file on that node.
        start: number of the last write that the served snapshot includes.
        node: IP address of the node, where Ray starts the writer again if it dies.
        snapshots: the store whose updates are in the log.
        max_bytes: how much the file may hold; None is no bound.

    Returns:
        The state of the writer that runs, as it describes itself, and its node. The file may be another than `path` if
        the service has had a writer all along.

    Raises:
        LogUnavailable: no writer runs there after half a minute.
    """
    options = {
        "name": _name(service),
        "namespace": NAMESPACE,
        "lifetime": "detached",
        "get_if_exists": True,
        "max_restarts": -1,
        "max_concurrency": _CALLS,
        "num_cpus": 0,
        "resources": {f"node:{node}": _PINNED},
    }
    ran = _find(service) is not None
    actor = ray.remote(LogWriter).options(**options).remote(path, start, snapshots, max_bytes)
    try:
        state: dict[str, Any] = ray.get(actor.describe.remote(), timeout=_START_S)
    except RayError as error:
        if not ran:  # one that others write to may be slow, it is not ours to end
            ray.kill(actor)
        raise LogUnavailable(f"the log's writer does not run on node {node}: {type(error).__name__}") from None
    return state | {"node": node}


def trim_writer(service: str, keep_from: int) -> None:
    """Have a service's writer forget records whose writes all have lower numbers.

    Raises:
        LogUnavailable: it could not.
    """
    actor = ray.get_actor(_name(service), NAMESPACE)
    try:
        ray.get(actor.trim.remote(keep_from), timeout=_START_S)
    except RayError as error:
        raise LogUnavailable(f"the log could not be trimmed: {error}") from None


def describe_writer(service: str) -> dict[str, Any] | None:
    """What a service's writer says of itself; nothing where it does not answer now, None where there is none."""
    if (actor := _find(service)) is None:
        return None
    try:
        state: dict[str, Any] = ray.get(actor.describe.remote(), timeout=_ASK_S)
    except RayError:
        return {}
    return state


def read_positions(service: str) -> dict[str, tuple[int, int]]:
    """Of every shard of a service that still catches up with the log: where it is, and the log's last number."""
    state = describe_writer(service) or {}
    behind = [reader for reader in state.get("starting", ()) if reader["lag"]]
    return {reader["shard"]: (reader["applied"], state["last"]) for reader in behind}


def stop_writer(service: str) -> None:
    """End a service's writer, if it has one; what it has acknowledged is in its file."""
    if (actor := _find(service)) is not None:
        ray.kill(actor)


def _find(service: str) -> Any:
    try:
        return ray.get_actor(_name(service), NAMESPACE)
    except ValueError:
        return None


def _name(service: str) -> str:
    return f"{service}-log"


def _of_the_writer(error: RayTaskError) -> SearchError:
    """What the writer raised, without Ray's wrapping."""
    cause = error.cause
    return cause if isinstance(cause, SearchError) else LogUnavailable(f"the log's writer failed: {cause}")
