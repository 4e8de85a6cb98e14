"""A sharded retrieval cluster for recommendation on Ray: index, filter and scoring as one PyTorch model.

These are the names for programs; whatever else is in here may move from one release to the next. Each is loaded when it
is first asked for: importing this package loads nothing else, and embedded search needs neither Ray nor TorchRec.

Publishing:        `publish` makes a snapshot of items by their `Schema` (of `Field` and `VectorSpec`), and returns its
                   `Catalog`.
Embedded search:   `LocalSearcher` gives a `BatchResult`; `ExactSearch` is brute force; `ValueSettings` holds formulas.
Search over HTTP:  `HttpSearcher` (asynchronous) and `SearchClient` (blocking, for JSON documents).
                   A `Searcher` answers a `SearchRequest` by a `SearchReply` (with `Coverage` and `TaskScores`).
Writes over HTTP:  `Upsert`, `Patch` and `Delete`; a `WriteReply` has an `ItemError` for each that is wrong.
Exported models:   `load_exported` and `compile_filter`, which makes a `CompiledFilter`.
Errors:            `SearchError`, of which each kind has a stable `code`. The request is wrong: `InvalidRequest`,
                   `FilterError`, `FormulaError`, `ReplyTooLarge`, `WritesDisabled`. It may be sent again: `Overloaded`,
                   `Unavailable`, `EncoderUnavailable`, `LogUnavailable`, `LogFull`, `CatalogFull`, `CoverageTooLow`,
                   `SequenceNotReached`, `DeadlineExceeded`. Before any request: `SchemaError`, `SnapshotError`,
                   `ShardTooLarge`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "BatchResult",
    "Catalog",
    "CatalogFull",
    "CompiledFilter",
    "Coverage",
    "CoverageTooLow",
    "DeadlineExceeded",
    "Delete",
    "EncoderUnavailable",
    "ExactSearch",
    "Field",
    "FilterError",
    "FormulaError",
    "HttpSearcher",
    "InvalidRequest",
    "ItemError",
    "LocalSearcher",
    "LogFull",
    "LogUnavailable",
    "Overloaded",
    "Patch",
    "ReplyTooLarge",
    "Schema",
    "SchemaError",
    "SearchClient",
    "SearchError",
    "SearchReply",
    "SearchRequest",
    "Searcher",
    "SequenceNotReached",
    "ShardTooLarge",
    "SnapshotError",
    "TaskScores",
    "Unavailable",
    "Upsert",
    "ValueSettings",
    "VectorSpec",
    "WriteReply",
    "WritesDisabled",
    "compile_filter",
    "load_exported",
    "publish",
]

if TYPE_CHECKING:
    from silverray.router.errors import CatalogFull, LogFull, LogUnavailable, Unavailable, WritesDisabled
    from silverray.router.http.client import HttpSearcher, SearchClient
    from silverray.router.writes.item_writer import WriteReply
    from silverray.router.writes.items_call import ItemError
    from silverray.shard.api import (
        Coverage,
        CoverageTooLow,
        DeadlineExceeded,
        EncoderUnavailable,
        FilterError,
        FormulaError,
        InvalidRequest,
        Overloaded,
        ReplyTooLarge,
        Searcher,
        SearchError,
        SearchReply,
        SearchRequest,
        SequenceNotReached,
        ShardTooLarge,
        SnapshotError,
        TaskScores,
    )
    from silverray.shard.filter.compiler import CompiledFilter, compile_filter
    from silverray.shard.live.writes import Delete, Patch, Upsert
    from silverray.shard.local import BatchResult, LocalSearcher
    from silverray.shard.model.export import load_exported
    from silverray.shard.publish.builder import publish
    from silverray.shard.schema.schema import Field, Schema, SchemaError, VectorSpec
    from silverray.shard.searcher import ExactSearch
    from silverray.shard.snapshot.catalog import Catalog
    from silverray.shard.value.settings import ValueSettings
else:  # hidden from type checkers, for which a module with `__getattr__` has every name
    _HOMES = {
        "silverray.router.http.client": "HttpSearcher SearchClient",
        "silverray.router.errors": "CatalogFull LogFull LogUnavailable Unavailable WritesDisabled",
        "silverray.router.writes.item_writer": "WriteReply",
        "silverray.router.writes.items_call": "ItemError",
        "silverray.shard.api": (
            "Coverage CoverageTooLow DeadlineExceeded EncoderUnavailable FilterError FormulaError InvalidRequest"
            " Overloaded ReplyTooLarge SearchError SearchReply SearchRequest Searcher SequenceNotReached ShardTooLarge"
            " SnapshotError TaskScores"
        ),
        "silverray.shard.filter.compiler": "CompiledFilter compile_filter",
        "silverray.shard.schema.schema": "Field Schema SchemaError VectorSpec",
        "silverray.shard.publish.builder": "publish",
        "silverray.shard.snapshot.catalog": "Catalog",
        "silverray.shard.live.writes": "Delete Patch Upsert",
        "silverray.shard.local": "BatchResult LocalSearcher",
        "silverray.shard.model.export": "load_exported",
        "silverray.shard.searcher": "ExactSearch",
        "silverray.shard.value.settings": "ValueSettings",
    }
    _HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}

    def __getattr__(name: str) -> object:
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(home), name)
        return value

    def __dir__() -> list[str]:
        return [*__all__, *(name for name in globals() if name.startswith("__"))]
