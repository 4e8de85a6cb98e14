"""Wire forms: JSON and MessagePack bodies to requests, replies to bodies."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgpack
import numpy as np
import orjson
from numpy.typing import NDArray

from silverray.router.errors import MalformedBody, UnsupportedMediaType, to_document
from silverray.shard.api import ItemId, SearchError, SearchReply, TaskScores


def _plain(value: object) -> object:
    """Payload values that a codec does not know by itself."""
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no wire form")


def _refuse_extension(code: int, data: bytes) -> object:
    raise ValueError(f"extension type {code} is not read")


@dataclass(frozen=True, slots=True)
class Codec:
    """A wire form.

    Attributes:
        media_type: its content type.
        loads: decodes a body; raises ValueError, TypeError or RecursionError on a malformed one.
        dumps: encodes a document.
        columnar: whether it has bins, so that replies can be columnar.
    """

    media_type: str
    loads: Callable[[bytes], Any]
    dumps: Callable[[Any], bytes]
    columnar: bool

    def decode(self, body: bytes) -> Any:
        """Decode a body.

        Raises:
            MalformedBody: it is not of this form.
        """
        try:
            return self.loads(body)
        except (ValueError, TypeError, RecursionError) as error:
            raise MalformedBody(f"not {self.media_type}: {str(error) or type(error).__name__}"[:300]) from None


JSON = Codec("application/json", orjson.loads, lambda document: orjson.dumps(document, _plain), columnar=False)
MESSAGE_PACK = Codec(
    "application/msgpack",
    lambda body: msgpack.unpackb(body, ext_hook=_refuse_extension),
    lambda document: bytes(msgpack.packb(document, default=_plain)),
    columnar=True,
)
_CODECS = {
    "application/json": JSON,
    "application/msgpack": MESSAGE_PACK,
    "application/x-msgpack": MESSAGE_PACK,
    "application/vnd.msgpack": MESSAGE_PACK,
}


@lru_cache(maxsize=256)
def request_codec(content_type: str) -> Codec:
    """The codec of a request's body; JSON where the client does not say.

    Raises:
        UnsupportedMediaType: neither JSON nor MessagePack.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    codec = _CODECS.get(media_type or JSON.media_type)
    if codec is None:
        raise UnsupportedMediaType(
            f"expected application/json or application/msgpack, got {media_type[:100]!r}", "Content-Type"
        )
    return codec


@lru_cache(maxsize=256)
def reply_codec(accept: str, fallback: Codec) -> Codec:
    """The codec of a reply: the first that the client accepts by name, else the request's own."""
    for entry in accept.split(","):
        media_type = entry.partition(";")[0].strip().lower()
        if media_type in _CODECS:
            return _CODECS[media_type]
    return fallback


def to_rows(reply: SearchReply) -> dict[str, Any]:
    """A result with one entry per item."""
    ids = reply.ids if isinstance(reply.ids, list) else reply.ids.tolist()
    scores = reply.scores.tolist()
    if reply.fields:
        names = list(reply.fields)
        rows = zip(*reply.fields.values(), strict=True)
        items: list[dict[str, Any]] = [
            {"id": key, "score": score, "fields": dict(zip(names, row, strict=True))}
            for key, score, row in zip(ids, scores, rows, strict=True)
        ]
    else:
        items = [{"id": key, "score": score} for key, score in zip(ids, scores, strict=True)]
    if reply.tasks is not None:
        for item, told in zip(items, _told(reply.tasks, provenance=reply.explain is not None), strict=True):
            item.update(told)
    return {"items": items, **_about(reply)}


def to_columns(reply: SearchReply) -> dict[str, Any]:
    """A result with one packed column per part: `ids`, `scores`, payload `fields` and, if ranked, those of tasks."""
    ids = reply.ids if isinstance(reply.ids, list) else reply.ids.astype("<i8").tobytes()
    columns: dict[str, Any] = {"ids": ids, "scores": reply.scores.astype("<f4").tobytes(), "fields": dict(reply.fields)}
    if reply.tasks is not None:
        columns["tasks"] = _packed(reply.tasks.names, reply.tasks.predictions)
        columns["found_by"] = _packed(reply.tasks.names, reply.tasks.found)
    return {**columns, **_about(reply)}


def _told(tasks: TaskScores, *, provenance: bool) -> Iterator[dict[str, Any]]:
    """What stands of tasks in each item: predictions and, for provenance, the score of each task that found it."""
    for predictions, found in zip(tasks.predictions.tolist(), tasks.found.tolist(), strict=True):
        told = {"tasks": dict(zip(tasks.names, predictions, strict=True))}
        if provenance:
            told["found_by"] = {
                name: score for name, score in zip(tasks.names, found, strict=True) if score > -math.inf
            }
        yield told


def _packed(names: Sequence[str], table: NDArray[np.float32]) -> dict[str, bytes]:
    return {name: table[:, column].astype("<f4").tobytes() for column, name in enumerate(names)}


def encode_outcomes(
    outcomes: Sequence[SearchReply | SearchError], codec: Codec, *, alone: bool, columns: bool
) -> bytes:
    """Encode what a body's queries came to.

    Args:
        outcomes: one per query.
        codec: the reply's form.
        alone: whether the body was one query, whose result is the whole reply.
        columns: whether results are columnar.
    """
    form = to_columns if columns else to_rows
    results = [to_document(entry) if isinstance(entry, SearchError) else form(entry) for entry in outcomes]
    return codec.dumps(results[0] if alone else {"results": results})


def encode_ranking(reply: SearchReply, ids: Mapping[int, ItemId], codec: Codec) -> bytes:
    """Encode the ranking of given items; `ids` has them by key."""
    ranked = set(reply.keys.tolist())
    unknown = [given for key, given in ids.items() if key not in ranked]
    return codec.dumps({**to_rows(reply), "unknown": unknown})


def _about(reply: SearchReply) -> dict[str, Any]:
    coverage = reply.coverage
    about: dict[str, Any] = {
        "version": reply.version,
        "seq": reply.seq,
        "coverage": {
            "shards": coverage.shards,
            "answered": coverage.answered,
            "items_fraction": coverage.items_fraction,
            "degraded": coverage.degraded,
        },
    }
    if reply.explain is not None:
        about["explain"] = reply.explain
    return about
