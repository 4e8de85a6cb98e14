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
from silverray.router.http.accept import preferred
from silverray.router.http.strict_json import loads_strict, unique
from silverray.shard.api import ItemId, ReplyTooLarge, SearchError, SearchReply, TaskScores
from silverray.shard.engine.reply_sizes import bounded, text_bytes, too_large


def _plain(value: object) -> object:
    """Payload values that a codec does not know by itself."""
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no wire form")


def _refuse_extension(code: int, data: bytes) -> object:
    raise ValueError(f"extension type {code} is not read")


def _reason(error: Exception) -> str:
    """Why a body cannot be decoded, in words that are not Python's."""
    if isinstance(error, RecursionError | msgpack.StackError):
        return "nested too deep"
    message = str(error)
    return "expected strings as keys" if "map key" in message else message or "malformed"


@dataclass(frozen=True, slots=True)
class Codec:
    """A wire form.

    Attributes:
        media_type: its content type.
        loads: decodes a body; raises ValueError, TypeError or RecursionError on a malformed one.
        dumps: encodes a document.
        results: puts encoded results into the document of a batch.
        columnar: whether it has bins, so that replies can be columnar.
    """

    media_type: str
    loads: Callable[[bytes], Any]
    dumps: Callable[[Any], bytes]
    results: Callable[[list[bytes]], bytes]
    columnar: bool

    def decode(self, body: bytes) -> Any:
        """Decode a body.

        Raises:
            MalformedBody: it is not of this form.
        """
        try:
            return self.loads(body)
        except (ValueError, TypeError, RecursionError) as error:
            raise MalformedBody(f"not {self.media_type}: {_reason(error)}"[:300]) from None


_MAX_LENGTH = 1 << 20
"""Most entries of a MessagePack array or map: more than anything that is taken has. Room for as many as a header says
is made before they are read, at each of a thousand levels."""


def _unpack(body: bytes) -> Any:
    longest = min(_MAX_LENGTH, len(body))
    return msgpack.unpackb(
        body, ext_hook=_refuse_extension, object_pairs_hook=unique, max_array_len=longest, max_map_len=longest
    )


def _json_results(parts: list[bytes]) -> bytes:
    return b'{"results":[%b]}' % b",".join(parts)


def _packed_results(parts: list[bytes]) -> bytes:
    packer = msgpack.Packer()
    head = (packer.pack_map_header(1), packer.pack("results"), packer.pack_array_header(len(parts)))
    return b"".join([*head, *parts])


JSON = Codec(
    "application/json", loads_strict, lambda document: orjson.dumps(document, _plain), _json_results, columnar=False
)
MESSAGE_PACK = Codec(
    "application/msgpack",
    _unpack,
    lambda document: bytes(msgpack.packb(document, default=_plain)),
    _packed_results,
    columnar=True,
)
_CODECS = {
    "application/json": JSON,
    "application/msgpack": MESSAGE_PACK,
    "application/x-msgpack": MESSAGE_PACK,
    "application/vnd.msgpack": MESSAGE_PACK,
}


_FORMS = (JSON, MESSAGE_PACK)
_NAMES = [[name for name, codec in _CODECS.items() if codec is form] for form in _FORMS]
_HEADER = 1_000
"""Characters of a header that are looked at; what was made of it is kept, so that it must not be long."""


def request_codec(content_type: str, fallback: Codec | None = JSON) -> Codec:
    """The codec of a request's body.

    Args:
        content_type: the header; empty where the client does not say.
        fallback: the codec where it does not; None refuses that.

    Raises:
        UnsupportedMediaType: neither JSON nor MessagePack.
    """
    media_type = content_type[:_HEADER].partition(";")[0].strip().lower()
    codec = _CODECS.get(media_type) if media_type else fallback
    if codec is None:
        got = repr(media_type[:100]) if media_type else "none"
        raise UnsupportedMediaType(f"expected application/json or application/msgpack, got {got}", "Content-Type")
    return codec


def reply_codec(accept: str, fallback: Codec) -> Codec:
    """The codec of a reply: what the client would rather read, else the request's own."""
    return _reply_codec(accept[:_HEADER], fallback)


@lru_cache(maxsize=256)
def _reply_codec(accept: str, fallback: Codec) -> Codec:
    return _FORMS[preferred(accept, _NAMES, _FORMS.index(fallback))]


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
    outcomes: Sequence[SearchReply | SearchError], codec: Codec, *, alone: bool, columns: bool, limit: int
) -> bytes:
    """Encode what a body's queries came to.

    Args:
        outcomes: one per query.
        codec: the reply's form.
        alone: whether the body was one query, whose result is the whole reply.
        columns: whether results are columnar.
        limit: most bytes of the reply.

    Raises:
        ReplyTooLarge: it would be longer. Nothing is encoded whose texts alone are.
    """
    form = to_columns if columns else to_rows
    if any(isinstance(entry, ReplyTooLarge) for entry in bounded(outcomes, limit)):
        raise too_large(limit)
    parts: list[bytes] = []
    size = 0
    for entry in outcomes:
        parts.append(codec.dumps(to_document(entry) if isinstance(entry, SearchError) else form(entry)))
        size += len(parts[-1])
        if size > limit:
            raise too_large(limit)
    return parts[0] if alone else codec.results(parts)


def encode_ranking(reply: SearchReply, ids: Mapping[int, ItemId], codec: Codec, limit: int) -> bytes:
    """Encode the ranking of given items; `ids` has them by key, and `limit` is as in `encode_outcomes`.

    Raises:
        ReplyTooLarge: the reply would be longer.
    """
    if text_bytes(reply) > limit:
        raise too_large(limit)
    ranked = set(reply.keys.tolist())
    unknown = [given for key, given in ids.items() if key not in ranked]
    content = codec.dumps({**to_rows(reply), "unknown": unknown})
    if len(content) > limit:
        raise too_large(limit)
    return content


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
