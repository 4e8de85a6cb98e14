"""A Ray Serve instance: connecting to Ray, starting Serve with its throughput settings, declaring applications."""

from __future__ import annotations

import math
import os
import resource
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationDetails, ServeApplicationSchema, ServeDeploySchema

from silverray.cluster.config import HttpConfig, ServeConfig
from silverray.cluster.serving.ray_local import join_ray, private_folder, start_ray, takes_calls_from_anybody
from silverray.cluster.serving.serve_life import alive_nodes, check_address, check_host, end_serve, is_head, start_serve
from silverray.cluster.signals import deaf_children, kept_handlers
from silverray.cluster.strict_yaml import ConfigError

_PROXIES = "HeadOnly"
_MESSAGE_BYTES = 256 << 20
"""Serve's 4 MiB would refuse a batch whose reply was estimated too short. Four times `limits.max_reply_bytes`, so
that only what no client would get is refused."""
_DRAINING_S = 2
"""Usual requests are answered within it; Serve's 30 s would lengthen every stop and every change by as much."""
_REPLY_S = 5  # what a reply may take beyond the longest deadline, before HAProxy gives up on the router
_FILES_A_CONNECTION = 3  # HAProxy does not start where fewer may be open: client, router and pipes
_NO_TOKENS = (
    "this Ray cluster asks for no tokens: whoever reaches its ports can run code on it. Start it with "
    "RAY_AUTH_MODE=token, or, if only machines that you trust reach them, give --insecure"
)
_PROXY_START_S = 120  # Serve's 5 s run out three times on a busy machine, and then it gives up


class ApplicationState(NamedTuple):
    """How an application does.

    Attributes:
        status: as Serve calls it: DEPLOYING, RUNNING, UNHEALTHY, DEPLOY_FAILED, DELETING.
        reasons: what Serve says of it and of its deployments.
        failed: whether a process of it failed to start, and is started again.
    """

    status: str
    reasons: tuple[str, ...] = ()
    failed: bool = False


class ServeInstance:
    """The Serve instance of the Ray cluster that this process is connected to.

    Args:
        address: of the Ray cluster; None for one that this process has started.
        started: whether Serve was started by this process.

    Attributes:
        address: of the Ray cluster, None for one of this process.
        started: whether Serve was started by this process.
    """

    def __init__(self, address: str | None, started: bool) -> None:
        self.address = address
        self.started = started
        self._client: Any = _get_global_client()

    @classmethod
    def connect(cls, config: ServeConfig, address: str | None, *, insecure: bool = False) -> ServeInstance:
        """Connect to a Ray cluster, or start one, and start Serve on it unless it runs there.

        Args:
            config: where HTTP listens and how proxies are checked, if Serve has to be started.
            address: of the Ray cluster; None starts one on this machine that ends with this process.
            insecure: whether a cluster may be used that asks for no tokens.

        Raises:
            ConfigError: the cluster cannot be reached, asks for no tokens, a port is taken, or routers would be out of
                reach.
            ServeNotStarted: Serve did not start.
        """
        own = address is None
        if own:
            check_ports(config.http)  # again: kernels may have been compiled since
        connect_ray(address, _reserved_cpus(config))
        try:
            if takes_calls_from_anybody() and not insecure:
                raise ConfigError(_NO_TOKENS)
            return cls._attach_or_start(config, address)
        except BaseException:
            ray.shutdown()
            raise

    @classmethod
    def _attach_or_start(cls, config: ServeConfig, address: str | None) -> ServeInstance:
        try:
            instance = cls.attach(address)
        except RayServeException:
            return cls._start(config, address)
        check_host(instance.host, alive_nodes())
        return instance

    @classmethod
    def _start(cls, config: ServeConfig, address: str | None) -> ServeInstance:
        host, port = config.http.host, config.http.port or free_port()
        check_host(host, alive_nodes())
        if address is not None and is_head():
            _check_port(host, port)
        start_serve(
            proxy_location=_PROXIES,
            http_options={"host": host, "port": port},
            controller_options={"runtime_env": {"env_vars": _environment(config, address is None)}},
        )
        return cls(address, started=True)

    @classmethod
    def attach(cls, address: str | None) -> ServeInstance:
        """Use the Serve instance that runs on the connected cluster.

        Raises:
            RayServeException: none runs there.
        """
        _get_global_client()
        return cls(address, started=False)

    @property
    def host(self) -> str:
        """The interface that HTTP listens on."""
        host: str = self._client.http_config.host
        return host

    @property
    def url(self) -> str:
        """Where HTTP is answered."""
        http = self._client.http_config
        host = "127.0.0.1" if http.host in ("0.0.0.0", "::") else http.host
        return f"http://{host}:{http.port}"

    def applications(self) -> dict[str, ApplicationDetails]:
        """All applications of the instance, other people's included."""
        details = self._client.get_serve_details()
        return {name: ApplicationDetails.model_validate(document) for name, document in details["applications"].items()}

    def states(self) -> dict[str, ApplicationState]:
        """How every application does; costs a fraction of `applications`."""
        found = {}
        for one in self._client.list_serve_statuses():
            deployments = one.deployment_statuses
            reasons = (one.app_status.message, *(deployment.message for deployment in deployments))
            failed = any(deployment.status_trigger.value == "REPLICA_STARTUP_FAILED" for deployment in deployments)
            found[one.name] = ApplicationState(one.app_status.status.value, reasons, failed)
        return found

    def declared(self, ours: Callable[[str], bool]) -> list[ServeApplicationSchema]:
        """The applications of some names, as they were declared."""
        configs = [details.deployed_app_config for name, details in self.applications().items() if ours(name)]
        return [config for config in configs if config is not None]

    def declare(self, wanted: Sequence[ServeApplicationSchema], replaces: Callable[[str], bool]) -> None:
        """Make the declared applications be the wanted ones and those of others, which stay as they are.

        Args:
            wanted: the applications that should run.
            replaces: whether an application that is there now gives way.

        Raises:
            ConfigError: another application has a wanted one's route.
        """
        names = {application.name for application in wanted}
        routes = {application.route_prefix for application in wanted} - {None}
        others = []
        for name, details in self.applications().items():
            if name in names or replaces(name):
                continue
            if details.route_prefix in routes:
                raise ConfigError(f"application {name!r} serves {details.route_prefix!r} on this cluster already")
            if details.deployed_app_config is not None:
                others.append(details.deployed_app_config)
        http = self._client.http_config
        document = {"proxy_location": _PROXIES, "http_options": {"host": http.host, "port": http.port}}
        schema = ServeDeploySchema.model_validate({**document, "applications": []})
        self._client.deploy_apps(schema.model_copy(update={"applications": [*others, *wanted]}))

    def close(self, *, shut_down: bool) -> None:
        """Disconnect, which ends a cluster that this process started; before that end Serve, if asked to."""
        if shut_down:
            end_serve()
        ray.shutdown()


def connect_ray(address: str | None, cpus: float = 0.0) -> None:
    """Connect to a Ray cluster, or start one on this machine.

    Args:
        address: of the cluster; None starts one.
        cpus: least number of CPUs that a started cluster claims to have.

    Raises:
        ConfigError: this process is connected already, or the cluster cannot be reached.
    """
    check_address(address)
    if ray.is_initialized():
        raise ConfigError("this process is connected to a Ray cluster already")
    with kept_handlers():  # Ray's own end the process at once, with a native stack and nothing cleaned up
        if address is None:
            with deaf_children():
                start_ray(max(os.cpu_count() or 1, int(cpus) + 1))
        else:
            join_ray(address)


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
    return port


def check_ports(http: HttpConfig) -> None:
    """Make sure that a cluster of one's own can listen where it shall.

    Raises:
        ConfigError: an address is not this machine's, or a port is taken.
    """
    _check_port(http.host, http.port)
    _check_port("0.0.0.0", http.stats_port or 0, "http.stats_port")
    _check_port("0.0.0.0", http.metrics_port or 0, "http.metrics_port")


def _environment(config: ServeConfig, own: bool) -> dict[str, str]:
    """Serve's own settings; its controller, proxies and replicas inherit them from here."""
    settings: dict[str, Any] = {
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": 1,
        "RAY_SERVE_ENABLE_HA_PROXY": 1,
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": _MESSAGE_BYTES,
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": _PROXY_START_S,
        "RAY_SERVE_HAPROXY_STARTUP_TIMEOUT_S": _PROXY_START_S,
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": config.health.proxy_period_s,
        "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": config.health.proxy_timeout_s,
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": _DRAINING_S,
        "RAY_SERVE_HAPROXY_MAXCONN": config.http.max_connections,
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": config.http.idle_s,
        "RAY_SERVE_HAPROXY_TIMEOUT_SERVER_S": math.ceil(config.limits.max_deadline_ms / 1e3) + _REPLY_S,
        # Calls from router to replica would go through a proxy of the environment, which cannot reach replicas.
        "grpc_proxy": "",
    }
    if own:
        settings |= _haproxy_files(private_folder())
        settings["RAY_SERVE_HAPROXY_MAXCONN"] = min(config.http.max_connections, _open_files() // _FILES_A_CONNECTION)
    ports = {
        "RAY_SERVE_HAPROXY_STATS_PORT": config.http.stats_port,
        "RAY_SERVE_HAPROXY_METRICS_PORT": config.http.metrics_port,
    }
    for name, port in ports.items():
        if port is not None or own:
            settings[name] = port or free_port()
    return {name: str(value) for name, value in settings.items()}


def _open_files() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def _haproxy_files(folder: Path) -> dict[str, str]:
    """Where HAProxy keeps its files: its control socket would be open to every account otherwise.

    Ray puts a folder named by the node's 56 characters between, and a socket's path has room for 97.
    """
    return {
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(folder / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(folder / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(folder),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(folder / "server-state"),
    }


def _reserved_cpus(config: ServeConfig) -> float:
    reserve, encoder = config.reserve, config.encoder
    ranks = encoder.group.ranks if encoder.group else 0
    encoders = encoder.replicas * (reserve.encoder_cpus + ranks * reserve.rank_cpus)
    return config.shards * config.replicas * reserve.shard_cpus + config.routers * reserve.router_cpus + encoders


def _check_port(host: str, port: int, key: str = "http.port") -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(f"{key}: cannot listen on {host}:{port}: {error.strerror}") from None
