"""A served snapshot: starting it, waiting until it answers, stopping it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import httpx
import ray
from ray.serve.exceptions import RayServeException

from silverray.cluster.applications import belongs_to, describe_applications
from silverray.cluster.config import ServeConfig
from silverray.cluster.instance import ServeInstance, connect_ray
from silverray.cluster.layout import Layout
from silverray.cluster.log.actor import start_writer, stop_writer, trim_writer
from silverray.cluster.log.claim import claim_store
from silverray.cluster.sections import ConfigError
from silverray.cluster.signals import kept_handlers
from silverray.router.diversifier import check_spacing
from silverray.router.log import LogUnavailable
from silverray.router.quotas import check_quotas
from silverray.shard.api import FormulaError, ShardTooLarge, SnapshotError
from silverray.shard.engine import Engine
from silverray.shard.index.catalog import Catalog
from silverray.shard.index.snapshot import least_seq, version_folder
from silverray.shard.model.tables import TablesTooLarge, TablesUnavailable
from silverray.shard.value.valuer import Valuer

Progress = Callable[[str], None]

_logger = logging.getLogger(__name__)

_POLL_S = 0.1
_STOP_S = 60.0
_HTTP_S = 5.0
_REFUSALS = tuple(kind.__name__ for kind in (ShardTooLarge, TablesTooLarge, TablesUnavailable))


class ServiceError(RuntimeError):
    """A service did not come up, or did not go away."""


class Service:
    """A service that this process has started; a context manager that stops it.

    Args:
        name: its name.
        layout: what it serves.
        instance: the Serve instance that it runs on.

    Attributes:
        name: its name.
        layout: what it serves.
        instance: the Serve instance that it runs on.
        url: where it answers.
    """

    def __init__(self, name: str, layout: Layout, instance: ServeInstance) -> None:
        self.name = name
        self.layout = layout
        self.instance = instance
        self.url = instance.url

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the service, Serve if this process started it and nobody else uses it, and a cluster of its own."""
        withdraw(self.instance, self.name, end_serve=self.instance.started)

    def detach(self) -> None:
        """Leave the service running; only where its cluster outlives this process."""
        self.instance.close(shut_down=False)


def start(
    config: ServeConfig,
    address: str | None = None,
    *,
    insecure: bool = False,
    progress: Progress | None = None,
    timeout_s: float = 600.0,
) -> Service:
    """Serve a snapshot and wait until every shard answers.

    A service of the same name on the cluster becomes this one; applications that do not change are left running.

    Args:
        config: what to serve and how.
        address: of a running Ray cluster; None starts one on this machine that ends with this process.
        insecure: whether a cluster may be used that asks for no tokens.
        progress: told what is being waited for whenever that changes.
        timeout_s: how long it may take.

    Returns:
        The service.

    Raises:
        ConfigError: the configuration does not fit the snapshot or the cluster.
        SnapshotError: there is no such snapshot, or it is damaged.
        ServiceError: an application failed, or it took too long; what was started is stopped.
    """
    tell = progress or (lambda _: None)
    catalog = Catalog.open(version_folder(config.snapshots, config.version))
    try:
        layout = Layout.spread(catalog.version, catalog.partitions, config.shards)
        Valuer(config.value, catalog.tasks, catalog.schema)
        check_spacing(config.diversity, catalog)
        check_quotas(config.quotas, catalog)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    except FormulaError as error:
        raise ConfigError(f"value.{error}") from None
    if address is None:
        # Once, so that the shards of this machine find the kernels compiled and do not all compile them at a time.
        tell("compiling kernels")
        Engine.open(catalog.path, (0,), device="cpu")
    tell("connecting to Ray" if address else "starting Ray")
    with kept_handlers():
        instance = ServeInstance.connect(config, address, insecure=insecure)
    service = Service(config.name, layout, instance)
    try:
        _open_log(config, catalog)
    except BaseException:
        if not any(belongs_to(application, config.name) for application in instance.applications()):
            stop_writer(config.name)
        instance.close(shut_down=instance.started)  # a service of this name that runs already goes on
        raise
    try:
        instance.declare(describe_applications(config, catalog, layout), lambda name: belongs_to(name, config.name))
        _wait_until_ready(service, tell, time.monotonic() + timeout_s)
    except BaseException:
        service.stop()
        raise
    return service


def withdraw(instance: ServeInstance, name: str, *, end_serve: bool) -> bool:
    """Stop a service on the connected cluster and disconnect.

    Args:
        instance: where it runs.
        name: its name.
        end_serve: whether Serve ends as well once no application is left.

    Returns:
        Whether there was such a service.

    Raises:
        ServiceError: it did not go away in time.
    """
    if instance.address is None:  # its cluster ends with this process's connection, and all in it
        instance.close(shut_down=False)
        return True
    deadline = time.monotonic() + _STOP_S
    found = any(belongs_to(application, name) for application in instance.applications())
    stop_writer(name)
    if found:
        instance.declare([], lambda application: belongs_to(application, name))
        while any(belongs_to(application, name) for application in instance.applications()):
            if time.monotonic() > deadline:
                raise ServiceError(f"service {name!r} is still stopping after {_STOP_S:.0f} s")
            time.sleep(_POLL_S)
    instance.close(shut_down=end_serve and not instance.applications())
    return found


def withdraw_from(address: str, name: str, *, end_serve: bool) -> bool:
    """Stop a service on a Ray cluster; see `withdraw`.

    Raises:
        ConfigError: the cluster cannot be reached.
        ServiceError: the service did not go away in time.
    """
    connect_ray(address)
    try:
        return withdraw(ServeInstance.attach(address), name, end_serve=end_serve)
    except RayServeException:
        return False
    finally:
        ray.shutdown()


def _open_log(config: ServeConfig, catalog: Catalog) -> None:
    """Start the writer of the service's log, if it has one, and end one that it no longer has."""
    if config.log is None:
        stop_writer(config.name)
        return
    node = config.log.node or ray.util.get_node_ip_address()
    nodes = [entry["NodeManagerAddress"] for entry in ray.nodes() if entry["Alive"]]
    if node not in nodes:
        raise ConfigError(f"log.node: expected a node of the Ray cluster ({', '.join(nodes)}), got {node}")
    try:
        log = start_writer(config.name, config.log.path, catalog.seq, node, config.snapshots, config.log.max_bytes)
    except LogUnavailable as error:
        raise ServiceError(error.message) from None
    if log["path"] != str(config.log.path):
        raise ConfigError(f"log.path: service {config.name!r} runs with {log['path']}; stop it to use another")
    claim_store(config.snapshots, log)
    if "error" in log:
        _logger.warning("serving without the update log, which refuses writes: %s", log["error"])
        return
    try:
        trim_writer(config.name, least_seq(config.snapshots) + 1)
    except (LogUnavailable, SnapshotError) as error:
        _logger.warning("the update log is not trimmed: %s", error)


def _wait_until_ready(service: Service, tell: Progress, deadline: float) -> None:
    said = ""
    with httpx.Client(base_url=service.url, timeout=_HTTP_S, trust_env=False) as client:
        while (waiting := _waiting_for(service, client)) is not None:
            if waiting != said:
                tell(said := waiting)
            if time.monotonic() > deadline:
                raise ServiceError(f"not ready in time: {waiting}")
            time.sleep(_POLL_S)


def _waiting_for(service: Service, client: httpx.Client) -> str | None:
    """What is not there yet; None when the service answers with its layout."""
    loading = []
    for name, details in service.instance.applications().items():
        if not belongs_to(name, service.name):
            continue
        reasons = [details.message, *(d.message for d in details.deployments.values())]
        # Serve starts a replica three times before it gives up; what cannot be now cannot be later.
        hopeless = any(refusal in reason for refusal in _REFUSALS for reason in reasons)
        if hopeless or details.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            raise ServiceError(f"{name}: {_last_line(reasons)}")
        if details.status != "RUNNING":
            loading.append(name)
    if loading:
        return f"loading {', '.join(sorted(loading))}"
    try:
        status = client.get("/v1/status")
        if status.status_code != 200 or _tag(status.json()) != service.layout.tag:
            return "waiting for the router"
        ready = client.get("/readyz")
    except (httpx.TransportError, ValueError):
        return "waiting for HTTP"
    return None if ready.status_code == 200 else "waiting for the shards' first answers"


def _tag(document: Any) -> str | None:
    layout = document.get("layout") if isinstance(document, dict) else None
    return layout.get("tag") if isinstance(layout, dict) else None


def _last_line(messages: list[str]) -> str:
    lines = [line.strip() for message in messages for line in message.splitlines() if line.strip()]
    return lines[-1] if lines else "failed without a message"
