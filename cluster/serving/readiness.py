"""Waiting until a service answers: what is still missing, and whether anything moves."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import httpx

from silverray.cluster.log.actor import read_positions
from silverray.cluster.serving.applications import belongs_to
from silverray.cluster.serving.instance import ApplicationState, ServeInstance
from silverray.shard.api import ShardTooLarge, SnapshotError
from silverray.shard.towers.tables import TablesTooLarge, TablesUnavailable

Progress = Callable[[str], None]

STALL_S = 600.0
"""How long nothing may move: twice what the kernels take to compile on a slow machine, which cannot be watched."""
UNHEALTHY_S = 120.0
"""How long an application may be unhealthy: a busy machine misses checks, and a new process takes half a minute."""
_POLL_S = 1.0
"""Each look asks Serve's controller, and a start takes tens of seconds: oftener would take from what is waited for."""
_HTTP_S = 5.0
"""A router waits up to 2 s for each silent part of its status: with one, the answer still comes."""
_REFUSALS = tuple(kind.__name__ for kind in (ShardTooLarge, TablesTooLarge, TablesUnavailable, SnapshotError))


class ServiceError(RuntimeError):
    """A service did not come up, or did not go away."""


class Missing(NamedTuple):
    """What a service still lacks.

    Attributes:
        what: for a person; what comes before a colon is the stage.
        state: differs from the one before if anything has moved.
    """

    what: str
    state: Hashable


class Readiness:
    """What a service lacks until it answers.

    Args:
        instance: where it runs.
        name: its name.
        tag: of the layout that it shall answer with; None for any.
        now: seconds, counted up.
    """

    def __init__(
        self, instance: ServeInstance, name: str, tag: str | None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._instance = instance
        self._name = name
        self._tag = tag
        self._now = now
        self._unhealthy: dict[str, float] = {}

    def missing(self) -> Missing | None:
        """What is not there yet; None when the service answers with its layout.

        Raises:
            ServiceError: it cannot come up.
        """
        states = {name: one for name, one in self._instance.states().items() if belongs_to(name, self._name)}
        for name, state in states.items():
            self._check(name, state)
        loading = sorted(name for name, state in states.items() if state.status != "RUNNING")
        if not states:
            return Missing("waiting for Serve", "none")
        if not loading:
            return self._ask()
        positions = read_positions(self._name)
        what = "; ".join(_describe(name, states[name], positions) for name in loading)
        # Of the state only what a starting process changes: a count of failures alone is no progress.
        return Missing(what, (tuple(loading), str(sorted(positions.items()))))

    def _check(self, name: str, state: ApplicationState) -> None:
        if state.status != "UNHEALTHY":
            self._unhealthy.pop(name, None)
        elif self._now() - self._unhealthy.setdefault(name, self._now()) > UNHEALTHY_S:
            raise ServiceError(f"{name}: {_last_line(state.reasons) or 'unhealthy'}")
        # Serve starts a replica several times before it gives up; what cannot be now cannot be later.
        hopeless = any(refusal in reason for refusal in _REFUSALS for reason in state.reasons)
        if (hopeless and state.status != "RUNNING") or state.status == "DEPLOY_FAILED":
            raise ServiceError(f"{name}: {_last_line(state.reasons) or 'failed without a message'}")

    def _ask(self) -> Missing | None:
        try:
            with httpx.Client(base_url=self._instance.url, timeout=_HTTP_S, trust_env=False) as client:
                status = client.get("/v1/status")
                tag = _tag(status.json()) if status.status_code == 200 else None
                if tag is None or self._tag not in (None, tag):
                    return Missing("waiting for the router", "router")
                ready = client.get("/readyz").status_code == 200
        except (httpx.TransportError, ValueError):
            return Missing("waiting for HTTP", "http")
        return None if ready else Missing("waiting for the shards' first answers", "answers")


def wait_until_ready(
    readiness: Readiness,
    tell: Progress,
    *,
    timeout_s: float | None = None,
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until a service answers.

    Args:
        readiness: of the service.
        tell: told what is being waited for, once a second.
        timeout_s: how long it may take; None for as long as anything moves.
        now: seconds, counted up.
        sleep: waits.

    Raises:
        ServiceError: it cannot come up, took too long, or nothing moved for `STALL_S`.
    """
    started = moved = now()
    state: Hashable = None
    while (missing := readiness.missing()) is not None:
        tell(missing.what)
        if missing.state != state:
            state, moved = missing.state, now()
        if timeout_s is not None and now() - started > timeout_s:
            raise ServiceError(f"not ready after {timeout_s:.0f} s: {missing.what}")
        if timeout_s is None and now() - moved > STALL_S:
            raise ServiceError(
                f"nothing has moved for {STALL_S:.0f} s: {missing.what}; --timeout gives it as long as it needs"
            )
        sleep(_POLL_S)


def _describe(name: str, state: ApplicationState, positions: dict[str, tuple[int, int]]) -> str:
    if name in positions:
        applied, last = positions[name]
        return f"{name}: log {applied:,} of {last:,}"
    line = _last_line(state.reasons) if state.failed else ""
    return f"starting {name}" + (f": tried again after {line}" if line else "")


def _tag(document: Any) -> str | None:
    layout = document.get("layout") if isinstance(document, dict) else None
    return layout.get("tag") if isinstance(layout, dict) else None


def _last_line(messages: Sequence[str]) -> str:
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else ""
