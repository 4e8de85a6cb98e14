"""Checked writes of one body, with an error for each item that is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from silverray.shard.api import ItemId
from silverray.shard.live.writes import Write

Op = Literal["upsert", "delete", "patch"]


@dataclass(frozen=True, slots=True)
class ItemError:
    """An item that was not accepted.

    Attributes:
        op: the list of the body in which it stands.
        index: its place there.
        id: its id, or the beginning of a long one; None where it has none.
        code: what kind of mistake it is.
        message: what was wrong.
    """

    op: Op
    index: int
    id: ItemId | None
    code: str
    message: str


class ItemsCall(NamedTuple):
    """What a body asks for.

    Attributes:
        writes: its good items, in the order upsert, delete, patch.
        errors: the others.
        wait: whether to wait until shards have applied the writes.
        timeout_s: time for the reply, from when the body was received.
    """

    writes: list[Write]
    errors: list[ItemError]
    wait: bool
    timeout_s: float
