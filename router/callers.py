"""Who may ask: the names that a request may call the service by, and the web pages that may send it bodies.

A browser sends what a foreign page asks it to. Without a check, any page could write to a service that listens on
loopback, and one whose own name is made to point there (DNS rebinding) could read as well.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass

from silverray.router.errors import ForeignHost, ForeignOrigin

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_SHOWN = 100
"""Characters of a header that a message shows: names of hosts are shorter, and a header may have thousands."""


def is_loopback(host: str) -> bool:
    """Whether nothing outside this machine reaches what listens at `host`."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@dataclass(frozen=True, slots=True)
class Callers:
    """Refuses requests that a foreign web page may have sent; those of other programs pass.

    Attributes:
        hosts: names without a port that `Host` may have; None takes every name.
        origins: pages that may send bodies besides the service's own, such as `https://films.example`.
    """

    hosts: frozenset[str] | None = None
    origins: frozenset[str] = frozenset()

    @classmethod
    def of(cls, listens: str, hosts: Collection[str] | None, origins: Collection[str]) -> Callers:
        """Make those of a service.

        Args:
            listens: the interface where it listens.
            hosts: names that it has besides those of loopback; None takes every name, unless it listens on loopback.
            origins: pages that may send it bodies.
        """
        named = frozenset(name.lower() for name in hosts or ()) | _LOOPBACK
        bounded = hosts is not None or is_loopback(listens)
        return cls(named | {_bracketed(listens)} if bounded else None, frozenset(map(str.lower, origins)))

    def check(self, method: str, headers: dict[bytes, bytes]) -> None:
        """Look at a request before anything else is done with it.

        Args:
            method: GET and HEAD are only asked for their `Host`: browsers keep what they return from foreign pages.
            headers: by lower-case name.

        Raises:
            ForeignHost: it calls the service by another name.
            ForeignOrigin: a page of another origin has sent it.
        """
        host = headers.get(b"host", b"").decode("latin-1").lower()
        # Browsers always send a Host; one without is a health check or a script.
        if self.hosts is not None and host and _name(host) not in self.hosts:
            raise ForeignHost(
                f"Host: this service is not called {host[:_SHOWN]!r}; names are added with http.hosts", "Host"
            )
        if method in ("GET", "HEAD") or b"origin" not in headers:
            return
        origin = headers[b"origin"].decode("latin-1").lower()
        if origin not in self.origins and not _same(origin, host):
            message = f"Origin: pages of {origin[:_SHOWN]!r} may not send here; http.origins names those that may"
            raise ForeignOrigin(message, "Origin")


def _name(host: str) -> str:
    """A Host without its port."""
    return host[: host.find("]") + 1] if host.startswith("[") else host.partition(":")[0]


def _bracketed(host: str) -> str:
    return f"[{host}]".lower() if ":" in host and not host.startswith("[") else host.lower()


def _same(origin: str, host: str) -> bool:
    """Whether a page's origin is the service that it calls by `host`; a proxy before it may speak TLS."""
    scheme, _, authority = origin.partition("://")
    port = _DEFAULT_PORTS.get(scheme)
    return port is not None and authority.removesuffix(f":{port}") == host.removesuffix(f":{port}")
