"""How much text replies carry, known before they are encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from silverray.shard.api import ReplyTooLarge, SearchError, SearchReply


def text_bytes(reply: SearchReply) -> int:
    """At least how many bytes the payload of a reply takes on the wire."""
    return sum(_length(value) for values in reply.fields.values() for value in values)


def bounded(outcomes: Sequence[SearchReply | SearchError], limit: int | None) -> Sequence[SearchReply | SearchError]:
    """Leave out replies whose payload would make a batch longer than a limit, the longest first.

    Args:
        outcomes: of searches that are answered together.
        limit: most bytes; None is no bound.

    Returns:
        The outcomes, with a `ReplyTooLarge` in place of each reply that was left out.
    """
    sizes = {
        place: text_bytes(one) for place, one in enumerate(outcomes) if isinstance(one, SearchReply) and one.fields
    }
    if limit is None or sum(sizes.values()) <= limit:
        return outcomes
    kept, total = list(outcomes), 0
    for place in sorted(sizes, key=sizes.__getitem__):
        total += sizes[place]
        if total > limit:
            kept[place] = too_large(limit)
    return kept


def too_large(limit: int) -> ReplyTooLarge:
    """The error of a reply that is longer than a limit."""
    return ReplyTooLarge(
        f"expected a reply of at most {limit:,} bytes (limits.max_reply_bytes): ask for fewer items, fields or"
        " queries at a time"
    )


def _length(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    return sum(map(len, value)) if isinstance(value, list) else 0
