"""Decoded bodies of writes to checked writes, with an error for each item that is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from silverray.router.http.item_schemas import MAX_ITEMS, ItemsBody, PatchItem, UpsertItem
from silverray.router.http.parsing import validate_body
from silverray.router.http.schemas import read_vector
from silverray.router.settings import RouterSettings
from silverray.router.writes.items_call import ItemError, ItemsCall, Op
from silverray.shard.api import InvalidRequest, ItemId, json_type, shown
from silverray.shard.live.checks import WriteError, check
from silverray.shard.live.writes import Delete, Patch, Upsert, Write

if TYPE_CHECKING:
    from silverray.shard.snapshot.catalog import Catalog

DEADLINE_S = 5.0
"""Time for a write whose body names none; a disk may need longer than a search should."""

_ID_SHOWN = 100
"""Characters of a wrong id in an error: a body may have 10,000 errors, and an id megabytes."""


def parse_items(document: object, catalog: Catalog, settings: RouterSettings) -> ItemsCall:
    """Check the body of a write and every item in it.

    Args:
        document: the decoded body.
        catalog: what the items must fit.
        settings: limits.

    Raises:
        InvalidRequest: the body as a whole is wrong, names too many items, none, or an id twice; `where` says where.
    """
    if not isinstance(document, dict):
        raise InvalidRequest(f"expected an object, got {json_type(document)}")
    body = validate_body(ItemsBody, document)
    count = len(body.upsert) + len(body.delete) + len(body.patch)
    if not 1 <= count <= MAX_ITEMS:
        raise InvalidRequest(f"expected 1 to {MAX_ITEMS} items in upsert, delete and patch together, got {count}")
    timeout_s = DEADLINE_S if body.deadline_ms is None else body.deadline_ms / 1e3
    if body.deadline_ms is not None and timeout_s > settings.max_deadline_s:
        message = f"expected at most {settings.max_deadline_s * 1e3:g}, got {body.deadline_ms:.15g}"
        raise InvalidRequest(message, "deadline_ms")
    places = list(_places(body))
    _refuse_twice(places)
    read = [_read(op, entry) for op, _, entry in places]
    checked = iter(check([write for write in read if not isinstance(write, WriteError)], catalog))
    writes: list[Write] = []
    errors: list[ItemError] = []
    for (op, index, entry), write in zip(places, read, strict=True):
        outcome = write if isinstance(write, WriteError) else _sized(next(checked), catalog, settings)
        if isinstance(outcome, WriteError):
            errors.append(ItemError(op, index, _shown(_id(op, entry)), outcome.code, outcome.message))
        else:
            writes.append(outcome)
    return ItemsCall(writes, errors, body.wait, timeout_s)


def _sized(outcome: Write | WriteError, catalog: Catalog, settings: RouterSettings) -> Write | WriteError:
    """A checked write, unless it is too large."""
    if not isinstance(outcome, WriteError):
        try:
            settings.sizes.check(outcome, catalog.dimension)
        except WriteError as error:
            return error
    return outcome


def _places(body: ItemsBody) -> Iterator[tuple[Op, int, Any]]:
    lists: dict[Op, list[Any]] = {"upsert": body.upsert, "delete": body.delete, "patch": body.patch}
    for op, entries in lists.items():
        for index, entry in enumerate(entries):
            yield op, index, entry


def _refuse_twice(places: list[tuple[Op, int, Any]]) -> None:
    seen: dict[ItemId, str] = {}
    for op, index, entry in places:
        key = _id(op, entry)
        if key is None:
            continue
        where = f"{op}[{index}]"
        if key in seen:
            message = f"id {_shown(key)!r} stands in {seen[key]} already; a body may name an item once"
            raise InvalidRequest(message, where)
        seen[key] = where


def _id(op: Op, entry: Any) -> ItemId | None:
    key = entry if op == "delete" else entry.get("id") if isinstance(entry, dict) else None
    if type(key) is int and not -(2**63) <= key < 2**64:  # neither form of a reply has room for it
        return None
    return key if type(key) in (int, str) else None


def _shown(key: ItemId | None) -> ItemId | None:
    return key[:_ID_SHOWN] if isinstance(key, str) else key


def _read(op: Op, entry: Any) -> Write | WriteError:
    if op == "delete":
        return Delete(entry)
    try:
        return _upsert(entry) if op == "upsert" else _patch(entry)
    except WriteError as error:
        return error


def _upsert(entry: Any) -> Upsert:
    item = _object(entry, UpsertItem.model_fields.keys(), ("id", "vector"))
    try:
        vector = read_vector(item["vector"])
    except ValueError as error:
        raise WriteError("invalid_vector", f"vector: {error}") from None
    space = item.get("space")
    if space == "" or not isinstance(space, str | None):
        raise WriteError("invalid_item", f"space: expected a name or null, got {shown(space)}")
    return Upsert(item["id"], vector, _fields(item), space or "")


def _patch(entry: Any) -> Patch:
    item = _object(entry, PatchItem.model_fields.keys(), ("id", "fields"))
    return Patch(item["id"], _fields(item))


def _object(entry: Any, known: Any, needed: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise WriteError("invalid_item", f"expected an object with {', '.join(needed)}, got {json_type(entry)}")
    if unknown := entry.keys() - known:
        message = f"unknown key {min(map(str, unknown))[:100]!r}; known are {', '.join(known)}"
        raise WriteError("invalid_item", message)
    for name in needed:
        if name not in entry:
            raise WriteError("invalid_item", f"{name}: is missing")
    return entry


def _fields(item: dict[str, Any]) -> dict[str, Any]:
    fields = item.get("fields", {})
    if not isinstance(fields, dict):
        raise WriteError("invalid_item", f"fields: expected an object, got {json_type(fields)}")
    return fields
