"""A served snapshot: starting it, waiting until it answers, stopping it."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import ray
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from silverray.cluster.config import LogConfig, ServeConfig
from silverray.cluster.log.actor import start_writer, stop_writer, trim_writer
from silverray.cluster.log.claim import check_log, claim_store
from silverray.cluster.serving.applications import belongs_to, describe_applications
from silverray.cluster.serving.change import Change
from silverray.cluster.serving.compiling import compile_kernels
from silverray.cluster.serving.instance import ServeInstance, check_ports, connect_ray
from silverray.cluster.serving.layout import Layout
from silverray.cluster.serving.ray_local import LOOPBACK
from silverray.cluster.serving.readiness import Progress, Readiness, ServiceError, wait_until_ready
from silverray.cluster.signals import kept_handlers, put_off_signals
from silverray.cluster.strict_yaml import ConfigError
from silverray.router.errors import LogUnavailable
from silverray.router.stages.diversify import check_spacing
from silverray.router.stages.limit import check_quotas
from silverray.shard.api import FormulaError, SnapshotError
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.snapshot.files import SnapshotFiles, least_seq, version_folder
from silverray.shard.value.valuer import Valuer

_logger = logging.getLogger(__name__)

_POLL_S = 0.5
"""Each look asks Serve's controller, which is busy with what is waited for; stopping takes some seconds."""
_STOP_S = 60.0
"""A replica has 5 s to end before Serve kills it; several times that on a busy machine. Beyond, a person should
look."""


class Service:
    """A service that answers; a context manager that stops it if this process has started it.

    Args:
        name: its name.
        layout: what it serves.
        instance: the Serve instance that it runs on.
        started: whether nothing of this name ran before.

    Attributes:
        name: its name.
        layout: what it serves.
        instance: the Serve instance that it runs on.
        started: whether nothing of this name ran before: only who started a service ends it.
        url: where it answers.
    """

    def __init__(self, name: str, layout: Layout, instance: ServeInstance, *, started: bool) -> None:
        self.name = name
        self.layout = layout
        self.instance = instance
        self.started = started
        self.url = instance.url

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.started:
            self.stop()
        else:
            self.detach()

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
    timeout_s: float | None = None,
) -> Service:
    """Serve a snapshot and wait until every shard answers.

    A service of the same name on the cluster becomes this one; applications that do not change are left running. Every
    file of the version is checked first, and where the new one does not come up or the change is interrupted, what
    served before is put back; a note of the exception says what became of it.

    Args:
        config: what to serve and how.
        address: of a running Ray cluster; None starts one on this machine that ends with this process.
        insecure: whether a cluster may be used that asks for no tokens.
        progress: told what is being waited for whenever that changes.
        timeout_s: how long it may take; None for as long as anything moves.

    Returns:
        The service.

    Raises:
        ConfigError: the configuration does not fit the snapshot or the cluster.
        SnapshotError: there is no such snapshot, or it is damaged.
        ServiceError: an application failed, or it took too long; what was started is stopped.
        ServeNotStarted: Ray Serve did not start.
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
        _check_machine(config)
        compile_kernels(catalog.path, tell)
    tell("connecting to Ray" if address else "starting Ray")
    with kept_handlers():
        instance = ServeInstance.connect(config, address, insecure=insecure)
    try:
        with _ray_errors():
            # Before anything is touched: it notes what serves now.
            change = Change(instance, config.name, catalog)
    except BaseException:
        instance.close(shut_down=instance.started)
        raise
    try:
        with _ray_errors():
            _apply(change, instance, config, catalog, layout, tell, timeout_s)
    except BaseException as error:
        if change.before:
            error.add_note(change.put_back(tell))
            instance.close(shut_down=False)
        else:
            tell("stopping what was started")
            # A second Ctrl-C meanwhile would leave half of it running.
            with put_off_signals(), _ray_errors():
                change.undo()
                withdraw(instance, config.name, end_serve=instance.started)
        raise
    return Service(config.name, layout, instance, started=not change.before)


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
    found = any(belongs_to(application, name) for application in instance.states())
    # First: routers that still answer refuse writes, instead of taking what no replica would apply.
    stop_writer(name)
    if found:
        instance.declare([], lambda application: belongs_to(application, name))
        while any(belongs_to(application, name) for application in instance.states()):
            if time.monotonic() > deadline:
                raise ServiceError(f"service {name!r} is still stopping after {_STOP_S:.0f} s")
            time.sleep(_POLL_S)
    instance.close(shut_down=end_serve and not instance.states())
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


def _check_machine(config: ServeConfig) -> None:
    """Refuse what this machine has not, before a cluster is started on it.

    Raises:
        ConfigError: a port is taken, or no log can be kept where it shall be.
    """
    check_ports(config.http)
    if config.log is None:
        return
    if config.log.node not in (None, LOOPBACK):
        raise ConfigError(f"log.node: expected none, or {LOOPBACK} without --address, got {config.log.node}")
    check_log(config.snapshots, config.log.path, LOOPBACK)


def _verify(catalog: Catalog, tell: Progress) -> None:
    """Read every file of a version before it replaces one that serves."""
    files = SnapshotFiles.open(catalog.path)
    total = len(files.manifest["files"])
    for done, _ in enumerate(files.verify(), 1):
        tell(f"verifying {catalog.version}: {done:,} of {total:,} files")


def _apply(
    change: Change,
    instance: ServeInstance,
    config: ServeConfig,
    catalog: Catalog,
    layout: Layout,
    tell: Progress,
    timeout_s: float | None,
) -> None:
    if change.before:
        _verify(catalog, tell)
    if config.log:
        # Before the replicas: they ask the writer for what they lack as they start.
        _open_log(config, config.log, catalog)
    change.declare(describe_applications(config, catalog, layout))
    wait_until_ready(Readiness(instance, config.name, layout.tag), tell, timeout_s=timeout_s)
    # Only now: until the new service answers, the old one may be put back, and needs its writer and records.
    _settle_log(config)


@contextmanager
def _ray_errors() -> Iterator[None]:
    """A cluster that is lost, or a Serve that ends, is no defect of this program."""
    try:
        yield
    except (RayError, RayServeException) as error:
        lines = str(error).splitlines() or ["no message"]
        raise ServiceError(f"Ray failed meanwhile: {type(error).__name__}: {lines[0]}") from None


def _open_log(config: ServeConfig, settings: LogConfig, catalog: Catalog) -> None:
    """Start the writer of the service's log, unless it runs, and make the store the log's."""
    node = settings.node or ray.util.get_node_ip_address()
    nodes = [entry["NodeManagerAddress"] for entry in ray.nodes() if entry["Alive"]]
    if node not in nodes:
        raise ConfigError(f"log.node: expected a node of the Ray cluster ({', '.join(nodes)}), got {node}")
    try:
        log = start_writer(config.name, settings.path, catalog.seq, node, config.snapshots, settings.max_bytes)
    except LogUnavailable as error:
        raise ServiceError(error.message) from None
    if log["path"] != str(settings.path):
        raise ConfigError(f"log.path: service {config.name!r} runs with {log['path']}; stop it to use another")
    # After the writer: only the opened file says which log it is.
    claim_store(config.snapshots, log)
    if "error" in log:
        _logger.warning("serving without the update log, which refuses writes: %s", log["error"])


def _settle_log(config: ServeConfig) -> None:
    """Once what served before is gone: forget old records, or end a writer that the service no longer has."""
    if config.log is None:
        stop_writer(config.name)
        return
    try:
        trim_writer(config.name, least_seq(config.snapshots) + 1)
    except (LogUnavailable, SnapshotError) as error:
        _logger.warning("the update log is not trimmed: %s", error)
