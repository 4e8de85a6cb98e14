"""Which of the server's forms a client would rather read."""

from __future__ import annotations

import re
from collections.abc import Sequence

_QUALITY = re.compile(r"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)")
_UNNAMED = (0.0, 0)
"""Quality and place of a form that no range covers: below all that are named, above those refused."""
_REFUSED = (-1.0, 0)
"""Below a form that is not named at all: `q=0` forbids what silence only does not ask for."""


def preferred(accept: str, forms: Sequence[Sequence[str]], fallback: int) -> int:
    """Choose a form by an `Accept` header.

    Args:
        accept: the header; empty where the client does not say.
        forms: the names of each form that there is.
        fallback: the form of a client that does not care which of several it gets, or takes none.

    Returns:
        The place of the form with the highest `q`, of equal ones the one that is named first. A form with `q=0` is
        chosen only where every other one is refused as well.

    Example:
        >>> preferred("application/msgpack;q=0, */*", [["application/json"], ["application/msgpack"]], 1)
        0
    """
    ranges: dict[str, tuple[float, int]] = {}
    for place, entry in enumerate(accept.lower().split(",")):
        name, *parameters = (part.strip() for part in entry.split(";"))
        quality = next((float(match[1]) for match in map(_QUALITY.fullmatch, parameters) if match), 1.0)
        ranges.setdefault(name, (quality, -place) if quality else _REFUSED)

    def weight(names: Sequence[str]) -> tuple[float, int]:
        if named := [ranges[name] for name in names if name in ranges]:
            return max(named)
        return ranges.get("application/*") or ranges.get("*/*") or _UNNAMED

    weights = [weight(names) for names in forms]
    best = max(weights)
    return fallback if weights[fallback] == best else weights.index(best)
