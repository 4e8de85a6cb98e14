"""The bodies of `POST /v1/items`, as they are documented; each item is checked by itself against the schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

MAX_ITEMS = 10_000
"""Most items that a body may name: they are checked in a thread within half a second (decision 12.1), and a group of
the log's stays short."""

_ID = {"anyOf": [{"type": "integer"}, {"type": "string"}]}


def _list_of(item: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"type": "array", "items": item, "default": []})


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


class UpsertItem(BaseModel):
    """A whole item, new or in place of the one with its id."""

    id: int | str
    vector: list[float] = Field(description="In MessagePack also a bin of little-endian float32.")
    fields: dict[str, Any] = Field(
        default_factory=dict,
        description="Value by field; a nullable field may be left out. Dates are texts such as `2001-05-31`; "
        "0 and 1 also stand for false and true.",
    )
    space: str | None = Field(
        None,
        description="Vector space of `vector`; null: that of `GET /v1/schema`. Versions of other spaces leave it out: "
        "they change the fields of an item that they have, and insert none.",
    )


class PatchItem(BaseModel):
    """New values for some fields of an item; without effect where there is none with this id."""

    id: int | str
    fields: dict[str, Any] = Field(description="Value by field; null makes it missing.")


class ItemsBody(BaseModel):
    """Items to write, at most 10,000 together, each id once. One that is wrong does not hinder the others."""

    model_config = ConfigDict(extra="forbid", strict=True)

    upsert: Annotated[list[Any], _list_of(_reference("UpsertItem"))] = Field(default_factory=list)
    delete: Annotated[list[Any], _list_of(_ID)] = Field(default_factory=list)
    patch: Annotated[list[Any], _list_of(_reference("PatchItem"))] = Field(default_factory=list)
    wait: bool = Field(False, description="Whether to reply only once every shard has applied the writes.")
    deadline_ms: float | None = Field(None, gt=0, allow_inf_nan=False, description="Time for the reply; null: 5,000.")


class ItemErrorResult(BaseModel):
    """An item that was not accepted."""

    op: Literal["upsert", "delete", "patch"]
    index: int = Field(description="Its place in the list of that name.")
    id: int | str | None = Field(description="Its id, as far as it has one.")
    code: str = Field(examples=["invalid_value"])
    message: str = Field(examples=["fields.year: expected an integer of at most 64 bits, got str '1990'"])


class ItemsResult(BaseModel):
    """What became of a body's items."""

    seq: int = Field(
        description="Log sequence number of the last accepted item, for `min_seq` of searches; 0 if none was."
    )
    accepted: int = Field(description="Items that are in the log, and will be applied whatever happens.")
    errors: list[ItemErrorResult]
    applied: bool | None = Field(
        None, description="With `wait`: whether every shard had applied them in time. They are applied later if not."
    )
