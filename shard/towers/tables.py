"""Embedding tables as TorchRec modules, and lookups in them.

Tables are authored and saved whole; `silverray.cluster.tables` splits them over devices from outside. TorchRec is
imported when a module is asked for, so that everything else works without it.
Letters: R requests, N rows of a table, D its dimension, W the width of all features of all tables.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from silverray.shard.towers.table import SCALE_BYTES, Table
from silverray.shard.towers.table_files import row_blocks

if TYPE_CHECKING:
    from torchrec import EmbeddingBagCollection, KeyedJaggedTensor

REQUIREMENTS = "requirements/torchrec-cpu.txt"


class TablesUnavailable(RuntimeError):
    """TorchRec is not installed, and what was asked for has embedding tables."""


class TablesTooLarge(RuntimeError):
    """Tables do not fit what is to hold them; the message has the numbers."""


class Lookup(Protocol):
    """Where a model's features are looked up: in this process, or by ranks that hold its tables between them."""

    async def look_up(self, features: KeyedJaggedTensor) -> Tensor:
        """Look up the features of R requests.

        Args:
            features: ids of every feature of the tables; others are left out.

        Returns:
            `[R, W]` fp32 on the CPU: the features' pooled vectors side by side, in the order of the tables and their
            features.

        Raises:
            ValueError: an id is outside of its table, or a feature of the tables is not there.
            EncoderUnavailable: the tables cannot be asked now.
        """
        ...


class LocalTables:
    """A `Lookup` in this process; computes in the default executor of the caller's event loop.

    Args:
        tables: the tables.
        module: made of them by `embedding_tables` or `int8_tables`.
    """

    def __init__(self, tables: Sequence[Table], module: nn.Module) -> None:
        self._tables = tuple(tables)
        self._module = module.eval()

    async def look_up(self, features: KeyedJaggedTensor) -> Tensor:
        """Look up features; see `Lookup`."""
        return await asyncio.get_running_loop().run_in_executor(None, self._look_up, features)

    def _look_up(self, features: KeyedJaggedTensor) -> Tensor:
        with torch.inference_mode():
            return look_up(self._module, self._tables, features)


def embedding_tables(tables: Sequence[Table], device: torch.device | None = None) -> EmbeddingBagCollection:
    """Make an unsharded module of tables, drawn from torch's random state.

    Args:
        tables: the tables; a feature belongs to one of them.
        device: where they lie, the CPU by default; `meta` holds no weights.

    Returns:
        From a `KeyedJaggedTensor` of their features to a `KeyedTensor`, `[R, D]` for every feature.

    Raises:
        TablesUnavailable: TorchRec is not installed.
        ValueError: two tables share a name or a feature.
    """
    torchrec = _torchrec()
    configs = _configs(torchrec, tables, torchrec.modules.embedding_configs.DataType.FP32)
    return torchrec.EmbeddingBagCollection(tables=configs, device=device)


def int8_tables(tables: Sequence[Table], folder: Path) -> nn.Module:
    """Read saved tables into int8 codes, each row with its own scale and least value, on the CPU.

    An element is off by at most (greatest - least of its row) / 510 and the rounding of fp16; reading holds one block
    of a table in fp32 at a time.

    Args:
        tables: the tables.
        folder: where `save_tables` wrote them.

    Returns:
        A module that is called like the one of `embedding_tables`; D + 4 bytes a row.

    Raises:
        TablesUnavailable: TorchRec is not installed.
        ValueError: two tables share a name or a feature.
        SnapshotError: a table's file is missing or does not fit.
    """
    torchrec = _torchrec()
    from torchrec.quant.embedding_modules import EmbeddingBagCollection as QuantizedBags

    codes = {table.name: _int8_codes(table, folder) for table in tables}
    return QuantizedBags(  # type: ignore[no-any-return]
        tables=_configs(torchrec, tables, torchrec.modules.embedding_configs.DataType.INT8),
        is_weighted=False,
        device=torch.device("cpu"),
        table_name_to_quantized_weights=codes,
    )


def keyed_jagged(columns: Mapping[str, tuple[Tensor, Tensor]]) -> KeyedJaggedTensor:
    """Put features side by side.

    Args:
        columns: of each feature the ids of all requests, one after another (int64), and the number of ids of each
            (`[R]` int64).

    Raises:
        TablesUnavailable: TorchRec is not installed.
    """
    return _torchrec().KeyedJaggedTensor(
        list(columns),
        torch.cat([ids for ids, _ in columns.values()]),
        lengths=torch.cat([lengths for _, lengths in columns.values()]),
    )


def look_up(module: nn.Module, tables: Sequence[Table], features: KeyedJaggedTensor) -> Tensor:
    """Look features up in a module of tables, after a check of their ids.

    Args:
        module: whole tables, or one rank's part of sharded ones, of which all ranks are called at a time.
        tables: the tables.
        features: ids of R requests.

    Returns:
        `[R, W]` fp32, the features in the order of the tables, whatever order the module has.

    Raises:
        ValueError: an id is outside of its table, or a feature of the tables is not there.
    """
    check_ids(tables, features)
    found = module(features).to_dict()
    return torch.cat([found[name] for table in tables for name in table.features], dim=1)


def check_ids(tables: Sequence[Table], features: KeyedJaggedTensor) -> None:
    """Raise ValueError unless every id of every feature of the tables is a row of its table.

    Lookups trust their ids: one outside of its table would end the process.
    """
    for table in tables:
        for name in table.features:
            if name not in features.keys():  # noqa: SIM118 (no mapping)
                raise ValueError(f"features: expected {name!r}, got {list(features.keys())}")
            ids = features[name].values()
            if not len(ids):
                continue
            least, greatest = (int(bound) for bound in torch.aminmax(ids))
            if least < 0 or greatest >= table.rows:
                wrong = least if least < 0 else greatest
                raise ValueError(f"{name}: expected rows 0 to {table.rows - 1} of table {table.name!r}, got {wrong}")


def _torchrec() -> Any:
    try:
        import torchrec
    except ImportError as error:
        raise TablesUnavailable(
            f"embedding tables: expected TorchRec to be installed, got {error}; install it with "
            f"`pip install --no-deps -r {REQUIREMENTS}`"
        ) from error
    return torchrec


def _configs(torchrec: Any, tables: Sequence[Table], data_type: Any) -> list[Any]:
    names = [table.name for table in tables]
    features = [name for table in tables for name in table.features]
    for kind, given in (("table", names), ("feature", features)):
        if len(set(given)) < len(given):
            raise ValueError(f"tables: expected every {kind} once, got {given}")
    poolings = torchrec.modules.embedding_configs.PoolingType
    return [
        torchrec.EmbeddingBagConfig(
            name=table.name,
            num_embeddings=table.rows,
            embedding_dim=table.dimension,
            feature_names=list(table.features),
            pooling=poolings.MEAN if table.pooling == "mean" else poolings.SUM,
            data_type=data_type,
        )
        for table in tables
    ]


def _int8_codes(table: Table, folder: Path) -> tuple[Tensor, Tensor]:
    """`[N, D]` uint8 codes, and `[N, 4]` uint8: the fp16 scale and least value of each row."""
    codes = torch.empty((table.rows, table.dimension), dtype=torch.uint8)
    scales = torch.empty((table.rows, SCALE_BYTES), dtype=torch.uint8)
    for start, block in row_blocks(folder, table):
        fused = torch.ops.fbgemm.FloatToFusedNBitRowwiseQuantizedSBHalf(block, 8)
        codes[start : start + len(block)] = fused[:, :-SCALE_BYTES]
        scales[start : start + len(block)] = fused[:, -SCALE_BYTES:]
    return codes, scales
