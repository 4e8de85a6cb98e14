"""Configuration of a served snapshot: one strict YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from silverray.cluster.strict_yaml import File, Section, read_section
from silverray.router.settings import DiversitySettings, RerankSettings
from silverray.shard.index.placement import ItemCache
from silverray.shard.value.settings import ValueSettings

Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Reserve = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class HttpConfig(Section):
    """Where the service listens.

    Attributes:
        host: interface; loopback unless the service is meant for other machines.
        port: 0 takes one that is free on this machine.
        stats_port: HAProxy's statistics page, on all interfaces; None takes a free port on a cluster that `serve`
            starts, and Ray Serve's own choice on any other.
        metrics_port: HAProxy's metrics, likewise.
        max_connections: most connections at a time; one more waits until another closes. On a cluster that `serve`
            starts, at most a third of the files that a process may have open.
        idle_s: how long a client may send nothing in the middle of a request, in seconds.
        hosts: names by which clients may call the service (`Host`, without a port) besides localhost. None takes every
            name, unless `host` is loopback: then a foreign web page could have its own name point here.
        origins: origins of web pages that may send searches and writes and read the answers, such as
            `https://films.example`, besides pages of the service's own address.
    """

    host: str = "127.0.0.1"
    port: Port = 8000
    stats_port: Port | None = None
    metrics_port: Port | None = None
    max_connections: Count = 4_096
    idle_s: Count = 30
    hosts: list[Annotated[str, Field(min_length=1, pattern=r"^[^/\s:]+$|^\[[0-9a-fA-F:]+\]$")]] | None = None
    origins: list[Annotated[str, Field(pattern=r"^https?://[^/\s]+$")]] = Field(default_factory=list)


class LimitsConfig(Section):
    """What the router refuses.

    Attributes:
        max_deadline_ms: longest deadline that a request may ask for.
        min_coverage: least fraction of the items that an answer must rest on when its body names none.
        max_pending: most requests that may wait or be in flight in one router.
        max_waiting: most requests that may wait for a write (`min_seq`) in one router, besides those.
        max_queries: most queries in a body.
        max_body_bytes: longest body.
        max_reply_bytes: longest reply, and most payload that a shard sends to a router for a batch: four of the longest
            bodies, and 6 KB for each of the 10,000 items that a query may ask for.
        max_field_bytes: most bytes of text in a field of an item that is written, of all its tags together.
        max_tags: most tags in a field of an item that is written.
        max_dimension: most numbers of a vector of another space than the served one.
        max_waiting_bytes: most bytes of bodies that a router holds, of searches and of writes each; one alone is taken.
        body_timeout_s: time that a client has to send a body.
    """

    max_deadline_ms: Positive = 60_000.0
    min_coverage: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_pending: Count = 1_024
    max_waiting: Count = 1_024
    max_queries: Count = 256
    max_body_bytes: Count = 16 << 20
    max_reply_bytes: Count = 64 << 20
    max_field_bytes: Count = 64 << 10
    max_tags: Count = 1_000
    max_dimension: Count = 8_192
    max_waiting_bytes: Count = 128 << 20
    body_timeout_s: Positive = 10.0


class BatchingConfig(Section):
    """How a router batches.

    Attributes:
        slots: batches in flight at a time.
        max_batch: most requests in a batch.
        max_batch_items: most items that a batch may ask for.
    """

    slots: Count = 2
    max_batch: Count = 64
    max_batch_items: Count = 64_000


class HealthConfig(Section):
    """How soon a dead process is noticed.

    Attributes:
        period_s: time between two checks of a replica.
        timeout_s: time that a replica has to answer a check; the third miss in a row ends it. A process that has died
            is noticed at once, however long this is.
        router_timeout_s: likewise for a router, which serves everybody: busy is better than gone.
        proxy_period_s: time between two checks of an HTTP proxy; only for a Serve instance that `serve` starts.
        proxy_timeout_s: time that a proxy has to answer a check; likewise.
    """

    period_s: Positive = 2.0
    timeout_s: Positive = 5.0
    router_timeout_s: Positive = 10.0
    proxy_period_s: Positive = 2.0
    proxy_timeout_s: Positive = 5.0


class ReserveConfig(Section):
    """What Ray sets aside for each replica; a matter of placement, not a limit on what it uses.

    Attributes:
        shard_cpus: for a replica of a shard.
        shard_gpus: for a replica of a shard; at least a fraction of one when `device` is cuda.
        router_cpus: for a router.
        encoder_cpus: for a replica of the encoder.
        rank_cpus: for a rank of a table group; it has a GPU to itself where its budget names GPU memory.
    """

    shard_cpus: Reserve = 0.1
    shard_gpus: Reserve = 0.0
    router_cpus: Reserve = 0.1
    encoder_cpus: Reserve = 0.1
    rank_cpus: Reserve = 0.1


class LogConfig(Section):
    """The durable log of live updates.

    Attributes:
        path: its file, on a disk of one node.
        node: IP address of that node, as Ray has it; None is the node that `serve` runs on.
        slack: free slots that shards are loaded with, for each item, and keep up.
        max_bytes: how much its file may hold; writes are refused then. 16 GiB are four million vectors of 1,024
            numbers, which a replica that starts reads in minutes.
        max_items: how many items there may be; upserts are refused then. None is four times the published ones, and at
            least a million: centroids are frozen, and lists that have grown much longer want a new version.
    """

    path: File
    node: str | None = None
    slack: Annotated[float, Field(gt=0, le=10)] = 0.1
    max_bytes: Count = 16 << 30
    max_items: Count | None = None


class TableGroupConfig(Section):
    """Processes that hold embedding tables between them.

    Attributes:
        ranks: number of processes.
        host_bytes: what each may take of its host's memory.
        hbm_bytes: what each may take of its GPU's memory; 0 keeps tables on the hosts and computes on CPUs.
    """

    ranks: Count
    host_bytes: Count
    hbm_bytes: Annotated[int, Field(ge=0)] = 0


class EncoderConfig(Section):
    """What turns user features into query vectors, where the snapshot has a user tower.

    Attributes:
        replicas: processes; each has all embedding tables, or a group of its own.
        int8: whether tables in the encoder's process are kept in int8: a quarter of the memory, for a small error.
        group: the processes that hold the tables; None keeps them in the encoder's.
    """

    replicas: Count = 1
    int8: bool = False
    group: TableGroupConfig | None = None

    @model_validator(mode="after")
    def _int8_in_process(self) -> Self:
        # TorchRec shards quantised tables for GPUs only.
        if self.int8 and self.group:
            raise ValueError("int8 tables lie in the encoder's process: expected int8: false or no group")
        return self


class ServeConfig(Section):
    """A snapshot store and how to serve it.

    Attributes:
        name: prefix of the Ray Serve applications, and what `status` and `stop` call the service.
        snapshots: directory with one folder per published version, readable under this path on every node.
        version: version to serve; None is the newest.
        shards: number of shards, at most the snapshot's number of partitions.
        replicas: processes per shard.
        routers: router processes.
        threads: compute threads per shard replica; None shares the machine's cores among the replicas.
        device: where shards compute.
        item_cache: where shards that compute on a GPU keep item vectors: in its memory, or pinned in the host's. On a
            CPU both mean the same.
        encoder: what turns user features into query vectors.
        http: where the service listens.
        deadline_ms: time that a request has when its body names none.
        limits: what the router refuses.
        batching: how the router batches.
        value: the formulas that value candidates.
        diversity: how lists are diversified where a search asks for it.
        rerank: how lists are re-ranked where the snapshot's scorer is set-wise.
        quotas: by task, places of every list that are kept for what the task predicts best.
        health: how soon a dead process is noticed.
        reserve: what Ray sets aside for each replica.
        log: the durable log of live updates; None takes none.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")] = "silverray"
    snapshots: File
    version: str | None = None
    shards: Count = 1
    replicas: Count = 1
    routers: Count = 1
    threads: Count | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    item_cache: ItemCache = "device"
    encoder: EncoderConfig = EncoderConfig()
    http: HttpConfig = HttpConfig()
    deadline_ms: Positive = 100.0
    limits: LimitsConfig = LimitsConfig()
    batching: BatchingConfig = BatchingConfig()
    value: ValueSettings = ValueSettings()
    diversity: DiversitySettings = DiversitySettings()
    rerank: RerankSettings = RerankSettings()
    quotas: dict[str, Count] = Field(default_factory=dict)
    health: HealthConfig = HealthConfig()
    reserve: ReserveConfig = ReserveConfig()
    log: LogConfig | None = None

    @classmethod
    def load(cls, path: Path, **overrides: Any) -> ServeConfig:
        """Read a YAML file.

        Args:
            path: the file; relative paths in it count from its folder.
            overrides: values that replace the file's; those that are None do not.

        Raises:
            ConfigError: the file cannot be read, is not YAML, or a key in it is unknown or has a wrong value.
        """
        config = read_section(cls, path, overrides)
        folder = path.resolve().parent
        paths: dict[str, Any] = {"snapshots": (folder / config.snapshots).resolve()}
        if config.log is not None:
            paths["log"] = config.log.model_copy(update={"path": (folder / config.log.path).resolve()})
        return config.model_copy(update=paths)
