"""The headers of a request, each once."""

from __future__ import annotations

from collections.abc import Iterable

from silverray.router.errors import RepeatedHeader

_SINGLE = {
    name.lower().encode(): name for name in ("Host", "Origin", "Content-Type", "Content-Length", "Content-Encoding")
}
"""A proxy may look at the first of two values where this service took the last. `Content-Encoding` may be a list by
its RFC, but no list of it is taken here."""


def read_headers(pairs: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Headers by lower-case name; the values of one that may stand several times are one list (RFC 9110, 5.3).

    Args:
        pairs: as ASGI has them.

    Raises:
        RepeatedHeader: one of a single value stands twice, even with the same.

    Example:
        >>> read_headers([(b"accept", b"text/html"), (b"accept", b"*/*")])
        {b'accept': b'text/html, */*'}
    """
    headers: dict[bytes, bytes] = {}
    for name, value in pairs:
        if name not in headers:
            headers[name] = value
        elif name in _SINGLE:
            raise RepeatedHeader("expected it once, got it twice or more", _SINGLE[name])
        else:
            headers[name] += b", " + value
    return headers
