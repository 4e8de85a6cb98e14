"""Errors that only the way to a searcher can have, and the form in which every error crosses HTTP."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from silverray.shard.api import (
    CoverageTooLow,
    DeadlineExceeded,
    EncoderUnavailable,
    FilterError,
    InvalidRequest,
    Overloaded,
    ReplyTooLarge,
    SearchError,
    SequenceNotReached,
)


class Unavailable(SearchError):
    """No shard could answer, for reasons other than time."""

    code = "unavailable"
    status = 503


class MalformedBody(InvalidRequest):
    """The body is not what its content type says."""

    code = "malformed_body"
    status = 400


class RepeatedHeader(InvalidRequest):
    """A header that may stand once stands several times."""

    code = "repeated_header"
    status = 400


class BodyTooLarge(InvalidRequest):
    """The body is longer than the server reads."""

    code = "body_too_large"
    status = 413


class BodyTimeout(InvalidRequest):
    """The body was not sent in time."""

    code = "body_timeout"
    status = 408


class UnsupportedMediaType(InvalidRequest):
    """The body is in a form that the server does not read."""

    code = "unsupported_media_type"
    status = 415


class ForeignHost(InvalidRequest):
    """The request calls the service by a name that it does not have."""

    code = "foreign_host"
    status = 403


class ForeignOrigin(InvalidRequest):
    """A web page of another origin sends a body."""

    code = "foreign_origin"
    status = 403


class CatalogFull(SearchError):
    """There are as many items as the service may have; deletes and patches are taken."""

    code = "catalog_full"
    status = 503


class WritesDisabled(InvalidRequest):
    """The service has no update log."""

    code = "writes_disabled"
    status = 403


class LogUnavailable(SearchError):
    """The log cannot be reached, written or read now. Searches go on; a write may be sent again as it is."""

    code = "log_unavailable"
    status = 503


class LogFenced(LogUnavailable):
    """Another writer has opened the log since: this one writes no more."""


class OtherLog(LogUnavailable):
    """What is where the log should be is another log."""


class LogFull(LogUnavailable):
    """The log is as long as it may be: it takes no writes until older ones are published and forgotten."""

    code = "log_full"


class LogGap(LogUnavailable):
    """A position lies outside the log: what stood there was trimmed, or this is not the log that it belongs to."""

    code = "log_gap"


class LogUnreadable(LogUnavailable):
    """A record is damaged, or of a later release. Its writes were acknowledged: nothing goes past them by itself."""

    code = "log_unreadable"


_BY_CODE: dict[str, type[SearchError]] = {
    kind.code: kind
    for kind in (
        InvalidRequest,
        Overloaded,
        CoverageTooLow,
        SequenceNotReached,
        EncoderUnavailable,
        DeadlineExceeded,
        Unavailable,
        MalformedBody,
        RepeatedHeader,
        BodyTooLarge,
        BodyTimeout,
        UnsupportedMediaType,
        ForeignHost,
        ForeignOrigin,
        ReplyTooLarge,
        WritesDisabled,
        CatalogFull,
        LogUnavailable,
        LogFull,
        LogGap,
    )
}

# What stands before routers answers in forms of its own: a proxy that knows no router, or whose router has gone, says
# 404 or 500 to 504 (Serve's turns the latter into 500), and it refuses by itself what it cannot parse.
_BY_STATUS: dict[int, type[SearchError]] = {
    **dict.fromkeys((404, 500, 502, 503, 504), Unavailable),
    400: MalformedBody,
    408: DeadlineExceeded,
    413: BodyTooLarge,
}


def at(where: str, error: SearchError) -> SearchError:
    """The same error seen from the body in which its request stands at `where` (empty: it is the body)."""
    if not where:
        return error
    moved = copy.copy(error)
    moved.where = f"{where}.{error.where}" if error.where else where
    return moved


def to_document(error: SearchError) -> dict[str, Any]:
    """The error as it stands in a reply: `{"error": {"code", "message", "where", ...}}`."""
    content: dict[str, Any] = {"code": error.code, "message": error.message, "where": error.where}
    if isinstance(error, FilterError):
        content |= {"position": error.position, "expected": list(error.expected), "hint": error.hint}
    return {"error": content}


def from_document(document: object, status: int) -> SearchError:
    """The error that a server's reply stands for.

    Args:
        document: the decoded reply.
        status: its HTTP status, which is all that is known when something other than a router has answered.

    Returns:
        An instance of the class that the server raised; `SearchError` itself where the code is not known.
    """
    content = document.get("error") if isinstance(document, Mapping) else None
    if not isinstance(content, Mapping):
        kind = _BY_STATUS.get(status, SearchError)
        said = "no answer" if status == 200 else "no error"
        return kind(f"the server answered with HTTP status {status} and {said} that a router gives")
    code, message, where = content.get("code"), str(content.get("message")), content.get("where")
    if code == FilterError.code:
        expected = content.get("expected") or ()
        return FilterError(message, content.get("position") or 0, tuple(expected), content.get("hint"), where)
    return _BY_CODE.get(str(code), SearchError)(message, where)
