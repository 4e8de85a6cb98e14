"""Starting Ray Serve on a busy machine, and ending it so that nothing of it goes on."""

from __future__ import annotations

import logging
import re
import socket
from contextlib import suppress
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from silverray.cluster.strict_yaml import ConfigError

_logger = logging.getLogger(__name__)

_NAMESPACE = "serve"
_CONNECT_S = 10.0  # a first packet that is lost is sent again after 1, 3 and 7 s
_HEAD = "node:__internal_head__"
_LOOPBACK = ("127.", "::1", "localhost")


class ServeNotStarted(RuntimeError):
    """Ray Serve did not start."""


def start_serve(**options: Any) -> None:
    """Start Serve; what was started of it is ended where that fails or is interrupted.

    Args:
        options: as `ray.serve.start` takes them.

    Raises:
        ServeNotStarted: it did not start, even when it was given a second time.
    """
    try:
        try:
            serve.start(**options)
        except (RayError, TimeoutError) as error:
            # Its controller starts a proxy that was too slow again by itself, with more time: whoever waits for HTTP
            # sees it come. Only where the controller itself is gone is there anything to start again.
            _logger.warning("Ray Serve is slow to start (%s)", type(error).__name__)
            serve.start(**options)
    except (RayError, RayServeException, TimeoutError) as error:
        end_serve()
        raise ServeNotStarted(f"Ray Serve did not start: {type(error).__name__}: {_first_line(error)}") from None
    except BaseException:
        end_serve()
        raise


def end_serve() -> None:
    """End Serve. What has not gone after half a minute is killed: its controller would try for ever to end the rest."""
    with suppress(RayError, RayServeException):
        serve.shutdown()
    for actor in ray.util.list_named_actors(all_namespaces=True):
        if actor["namespace"] == _NAMESPACE:
            with suppress(ValueError):  # it has just gone
                ray.kill(ray.get_actor(actor["name"], _NAMESPACE))


def check_address(address: str | None) -> None:
    """Refuse an address where nothing listens; Ray would try for a minute, and say so in its own words.

    Args:
        address: of a Ray cluster; only HOST:PORT is looked at.

    Raises:
        ConfigError: nothing listens there.
    """
    match = re.fullmatch(r"\[?([^/]+?)\]?:(\d{1,5})", address or "")
    if match is None:
        return
    try:
        socket.create_connection((match[1], int(match[2])), _CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise ConfigError(f"address: expected a Ray cluster's HOST:PORT, got {address}: {error}") from None


def check_host(host: str, nodes: int) -> None:
    """Refuse to serve on loopback where routers run on several nodes.

    Raises:
        ConfigError: the proxy could not reach the routers of other nodes: they listen where it does.
    """
    if nodes > 1 and host.startswith(_LOOPBACK):
        raise ConfigError(
            f"http.host: expected an address that all {nodes} nodes of the Ray cluster have, such as 0.0.0.0,"
            f" got {host}: the proxy reaches routers on other nodes by it"
        )


def alive_nodes() -> int:
    """Number of nodes of the connected cluster."""
    return sum(node["Alive"] for node in ray.nodes())


def is_head() -> bool:
    """Whether this machine is the node that the proxy runs on."""
    here = ray.util.get_node_ip_address()
    return any(_HEAD in node["Resources"] and node["NodeManagerAddress"] == here for node in ray.nodes())


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "no message"
