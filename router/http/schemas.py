"""The bodies of `POST /v1/search`, as they are validated and documented."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

from silverray.shard.api import MAX_FEATURES_K, MAX_K, MAX_STRENGTH, json_type

_NUMBERS = {int, float}
_NUMBER_LIST = {"type": "array", "items": {"type": "number"}}
_MAX_VECTORS = 1_000
"""More than any model has tasks. A body has room for millions, which would take seconds to read."""
Vectors = NDArray[np.float32]


def read_vector(value: object) -> Vectors:
    """One vector: a list of numbers, or in MessagePack a bin of little-endian float32.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, bytes):
        if len(value) % 4:
            raise ValueError(f"expected a bin of whole float32 values, got {len(value)} bytes")
        return np.frombuffer(value, dtype="<f4").astype(np.float32, copy=False)
    if not isinstance(value, list):
        raise ValueError(f"expected an array of numbers, got {json_type(value)}")
    if not _NUMBERS.issuperset(map(type, value)):
        place = next(i for i, number in enumerate(value) if type(number) not in _NUMBERS)
        raise ValueError(f"expected an array of numbers, got {json_type(value[place])} at place {place}")
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        return np.array(value, dtype=np.float64).astype(np.float32)


def _vectors(value: object) -> Vectors:
    """A vector per task: a list of vectors; a bin of them all stays flat until the dimension is known."""
    if not isinstance(value, list):
        return read_vector(value)
    if not value:
        raise ValueError("expected a vector per task, got none")
    if len(value) > _MAX_VECTORS:
        raise ValueError(f"expected a vector per task, got {len(value)}")
    rows = [read_vector(row) for row in value]
    if len({len(row) for row in rows}) > 1:
        raise ValueError(f"expected vectors of one length, got lengths {[len(row) for row in rows][:8]}")
    return np.stack(rows)


class DiversifyBody(BaseModel):
    """How a list is diversified."""

    model_config = ConfigDict(extra="forbid", strict=True)

    strength: float | None = Field(
        None,
        ge=0,
        le=MAX_STRENGTH,
        allow_inf_nan=False,
        description="How much an item may gain by being unlike those before it, in units of the scores; 0 changes"
        " nothing. null: the server's default.",
    )


def _known_keys(value: object) -> object:
    # Before validation, which would collect an error for each of a million unknown keys.
    if isinstance(value, dict) and (unknown := value.keys() - DiversifyBody.model_fields.keys()):
        raise ValueError(
            f"unknown key {min(map(str, unknown))[:100]!r}: known are {', '.join(DiversifyBody.model_fields)}"
        )
    return value


def _texts(value: object) -> object:
    # Before validation, which would collect an error for each of a million keys that are bins.
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"expected strings as keys, got {json_type(key)}")
    return value


Named = Annotated[dict[str, Any] | None, BeforeValidator(_texts)]


class UserBody(BaseModel):
    """What searches and rankings have in common; exactly one of `vector`, `vectors` and `user` is given."""

    model_config = ConfigDict(extra="forbid", strict=True)

    vector: Annotated[
        Vectors | None,
        PlainValidator(lambda value: None if value is None else read_vector(value)),
        WithJsonSchema({"anyOf": [_NUMBER_LIST, {"type": "null"}]}),
    ] = Field(None, description="The query vector. In MessagePack also a bin of little-endian float32.")
    vectors: Annotated[
        Vectors | None,
        PlainValidator(lambda value: None if value is None else _vectors(value)),
        WithJsonSchema({"anyOf": [{"type": "array", "items": _NUMBER_LIST}, {"type": "null"}]}),
    ] = Field(None, description="A query vector per task. In MessagePack also one bin of all of them.")
    user: Named = Field(None, description="User features, which the snapshot's user tower turns into vectors.")
    fields: Annotated[list[str], Field(fail_fast=True)] = Field(
        default_factory=list, description="Payload fields to return.", json_schema_extra={"default": []}
    )
    deadline_ms: float | None = Field(
        None, gt=0, allow_inf_nan=False, description="Time for the answer; null: the server's default."
    )
    min_seq: int = Field(0, ge=0, lt=2**63, description="Least log sequence number that the answer must include.")
    min_coverage: float | None = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Least fraction of the items that must have been searched; null: the server's default.",
    )
    explain: bool = Field(False, description="Whether to say how the answer was found.")
    variant: str | None = Field(None, description="Name of the formula that values the items; null: the default.")
    context: Named = Field(
        None,
        description="What formulas read of the request; what they do not read is ignored. Where the body brings"
        " vectors, user features stand here as `user.NAME`.",
        examples=[{"hour": 21}],
    )


class QueryBody(UserBody):
    """One query: exactly one of `vector`, `vectors` and `user` is given."""

    filter: str | None = Field(
        None, description="Filter text.", examples=['year >= 1990 and genres any ("Comedy", "Drama")']
    )
    k: int = Field(
        10,
        ge=1,
        le=MAX_K,
        description=f"Number of items wanted; up to {MAX_FEATURES_K:,} where the snapshot's scorer judges whole lists.",
    )
    mode: Literal["exact", "bloom"] = Field(
        "exact",
        description="`bloom` leaves positive hashed filter terms unverified: false positives are possible.",
    )
    n_probe: int | None = Field(
        None,
        ge=1,
        lt=2**63,
        description="Clusters to scan, no more and no fewer. null: as many as a full answer needs.",
    )
    refine: Literal["all"] | None = Field(None, description="`all`: an exact score for every scanned candidate.")
    min_score: float | None = Field(
        None,
        allow_inf_nan=False,
        description="Items with a lower score are left out, before the list is diversified or cut to k.",
    )
    diversify: Annotated[DiversifyBody | None, BeforeValidator(_known_keys)] = Field(
        None,
        description=f"Choose items that differ from their neighbours in the list; k up to {MAX_FEATURES_K:,}. The items"
        " stand in the order in which they were chosen, with the scores that they have by themselves.",
        examples=[{"strength": 0.3}],
    )


def _ids(value: object) -> list[Any] | NDArray[np.int64]:
    """Ids: a list, or in MessagePack a bin of little-endian int64. What they must be is up to the catalog."""
    if isinstance(value, bytes):
        if len(value) % 8:
            raise ValueError(f"expected a bin of whole int64 values, got {len(value)} bytes")
        return np.frombuffer(value, dtype="<i8")
    if not isinstance(value, list):
        raise ValueError(f"expected an array of ids, got {json_type(value)}")
    return value


class RankBody(UserBody):
    """Given items to rank for a user; exactly one of `vector`, `vectors` and `user` is given."""

    ids: Annotated[
        list[Any] | NDArray[np.int64],
        PlainValidator(_ids),
        WithJsonSchema({"type": "array", "items": {"anyOf": [{"type": "integer"}, {"type": "string"}]}}),
    ] = Field(
        description=f"1 to {MAX_K:,} item ids, to {MAX_FEATURES_K:,} where the snapshot's scorer judges whole lists. In"
        " MessagePack also a bin of little-endian int64."
    )


class SearchBody(QueryBody):
    """One query alone in its body."""

    columns: bool = Field(False, description="MessagePack only: a columnar reply.")


class BatchBody(BaseModel):
    """Several queries in one body; one that is wrong refuses them all."""

    model_config = ConfigDict(extra="forbid", strict=True)

    queries: Annotated[list[QueryBody], Field(fail_fast=True)] = Field(min_length=1)
    columns: bool = Field(False, description="MessagePack only: columnar results.")


class ItemResult(BaseModel):
    """One found item."""

    id: int | str = Field(
        description="The item's id. Integer ids are int64: JavaScript's numbers lose precision above 2^53, so"
        " read them with a parser that keeps integers, or use string ids."
    )
    score: float
    tasks: dict[str, float] | None = Field(
        None, description="Predictions by task; there when items are ranked: by several tasks, a scorer or a formula."
    )
    found_by: dict[str, float] | None = Field(
        None, description="Tasks among whose candidates the item was, with its score there; with `explain` only."
    )
    fields: dict[str, Any] | None = Field(None, description="Payload; there when fields were asked for.")


class CoverageResult(BaseModel):
    """How much of the catalog an answer rests on."""

    shards: int = Field(description="Shards that were asked.")
    answered: int = Field(description="Shards whose answer is in the result.")
    items_fraction: float = Field(description="Fraction of the items that was searched.")
    degraded: bool = Field(description="Whether any shard is missing.")


class SearchResult(BaseModel):
    """The best items of one query, by (score desc, id asc), or as diversification has placed them."""

    items: list[ItemResult]
    version: str = Field(description="Version of the snapshot that answered.")
    seq: int = Field(description="Log sequence number that the answer includes.")
    coverage: CoverageResult
    explain: dict[str, Any] | None = Field(None, description="There when it was asked for.")


class RankResult(SearchResult):
    """The given items by (score desc, id asc)."""

    unknown: list[int | str] = Field(
        description="Ids of no item; where the coverage is degraded, also those that were on a shard which is missing."
    )


class ErrorDetail(BaseModel):
    """What was wrong."""

    code: str = Field(examples=["invalid_filter"])
    message: str
    where: str | None = Field(description="The part of the request at fault.", examples=["queries[3].filter"])
    position: int | None = Field(None, description="Filter errors: 0-based character position.")
    expected: list[str] | None = Field(None, description="Filter errors: what would have been accepted there.")
    hint: str | None = Field(None, description="Filter errors: how to mend it.")


class ErrorReply(BaseModel):
    """Every reply that is not a success has this form."""

    error: ErrorDetail


class BatchResult(BaseModel):
    """A result per query, in order.

    A query that had no result (for instance none in time) has an error in its place. If none has one, the
    first error is the reply.
    """

    results: list[SearchResult | ErrorReply]
