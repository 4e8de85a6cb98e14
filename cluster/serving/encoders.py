"""The encoder's Ray Serve deployment: user features to query vectors, with tables in it or in a table group."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from ray import serve

from silverray.cluster.config import TableGroupConfig
from silverray.cluster.serving.gc_tuning import spare_loaded
from silverray.cluster.serving.handles import ApplicationHandle
from silverray.shard.api import SearchError
from silverray.shard.towers.encoder import TowerEncoder
from silverray.shard.towers.table import Table
from silverray.shard.towers.table_files import TABLES_FOLDER, check_tables, load_tables, read_tables
from silverray.shard.towers.tables import LocalTables, Lookup, embedding_tables, int8_tables

ENCODER_DEPLOYMENT = "encoder"

Users = Sequence[Mapping[str, Any]]


class EncoderArgs(BaseModel):
    """What the encoder's application is built from.

    Attributes:
        model: the snapshot's model directory.
        version: the snapshot's version.
        int8: whether tables in the encoder's process are kept in int8.
        group: the ranks that hold the tables; None keeps them in the encoder's process.
        rank_cpus: what Ray sets aside for each rank.
    """

    model_config = ConfigDict(extra="forbid")

    model: Path
    version: str
    int8: bool
    group: TableGroupConfig | None
    rank_cpus: float


class ServedTables(Lookup, Protocol):
    """A `Lookup` that can say where its tables are."""

    def describe(self) -> dict[str, Any]:
        """Whether it is ready, and which part of which table lies where, as JSON values."""
        ...


class EncoderReplica:
    """One process of the encoder; it owns the ranks of its table group, if it has one.

    Args:
        args: what to load.
    """

    async def __init__(self, args: EncoderArgs) -> None:  # type: ignore[misc]  # Serve awaits it
        self._version = args.version
        self._tables = await _open_tables(args)
        self._encoder = await asyncio.to_thread(TowerEncoder.load, args.model, self._tables)
        spare_loaded()

    def describe(self) -> dict[str, Any]:
        """Where the embedding tables are, for a status reply."""
        return {"version": self._version, "tables": self._tables.describe()}

    async def encode(self, version: str, users: Users) -> NDArray[np.float32] | SearchError:
        """Encode a batch for a router of the same version: `[B, T, D]` float32, or the batch's error."""
        if version != self._version:
            return SearchError(f"asked for version {version!r}, this encoder is of {self._version!r}")
        try:
            return await self._encoder.encode(users)
        except SearchError as error:
            return error


class EncoderCaller:
    """An `Encoder` that asks the encoder's application; a call that its caller gives up is cancelled there too.

    Args:
        application: name of the application.
        version: the version that the caller routes.
    """

    def __init__(self, application: str, version: str) -> None:
        self._handle = ApplicationHandle(ENCODER_DEPLOYMENT, application)
        self._version = version

    async def encode(self, users: Users) -> NDArray[np.float32]:
        """Encode a batch; see `Encoder`."""
        vectors: NDArray[np.float32] | SearchError = await self._handle.call("encode", self._version, list(users))
        if isinstance(vectors, SearchError):
            raise vectors
        return vectors

    async def describe(self) -> dict[str, Any] | None:
        """What one replica of the encoder says of itself; None if it does not in time."""
        return await self._handle.describe()


def encoder_application(args: dict[str, Any]) -> serve.Application:
    """Build the application of the encoder from `EncoderArgs`; Serve calls this by its import path."""
    return serve.deployment(EncoderReplica, name=ENCODER_DEPLOYMENT).bind(EncoderArgs.model_validate(args))


class _OwnTables(LocalTables):
    """Tables in the encoder's process."""

    def __init__(self, folder: Path, *, int8: bool) -> None:
        tables = read_tables(folder)
        check_tables(folder, tables)
        if int8:
            module = int8_tables(tables, folder)
        else:
            module = embedding_tables(tables)
            load_tables(folder, tables, module)
        super().__init__(tables, module)
        self._shards = [_whole(table, int8=int8) for table in tables]

    def describe(self) -> dict[str, Any]:
        held = sum(shard["bytes"] for shard in self._shards)
        return {"ready": True, "failures": 0, "device": "cpu", "rank_bytes": [held], "shards": self._shards}


def _whole(table: Table, *, int8: bool) -> dict[str, Any]:
    return {
        "table": table.name,
        "rank": None,
        "sharding": "whole",
        "kernel": "int8" if int8 else "fp32",
        "rows": (0, table.rows),
        "columns": (0, table.dimension),
        "bytes": table.int8_bytes if int8 else table.bytes,
    }


async def _open_tables(args: EncoderArgs) -> ServedTables:
    folder = args.model / TABLES_FOLDER
    if args.group is None:
        return await asyncio.to_thread(_OwnTables, folder, int8=args.int8)
    # Imported here, since routers and the command line know this file and have no need of TorchRec.
    from silverray.cluster.tables.dispatcher import GroupTables
    from silverray.cluster.tables.plan import RankBudget, plan_tables

    tables = await asyncio.to_thread(read_tables, folder)
    await asyncio.to_thread(check_tables, folder, tables)  # here, as ranks make room before they read
    budget = RankBudget(args.group.host_bytes, args.group.hbm_bytes)
    plan = await asyncio.to_thread(plan_tables, tables, args.group.ranks, budget, "cuda" if budget.hbm_bytes else "cpu")
    return await GroupTables.form(plan, folder, args.rank_cpus)
