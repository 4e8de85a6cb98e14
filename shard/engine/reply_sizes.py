"""How much text replies carry, known before they are built or encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from silverray.shard.api import ReplyTooLarge, SearchError, SearchReply
from silverray.shard.index.text_sizes import value_size


def text_bytes(reply: SearchReply) -> int:
    """At least how many bytes the payload of a reply takes on the wire."""
    return sum(value_size(value) for values in reply.fields.values() for value in values)


def bounded(outcomes: Sequence[SearchReply | SearchError], limit: int) -> Sequence[SearchReply | SearchError]:
    """Leave out replies whose payload would make a batch longer than a limit, the longest first.

    Args:
        outcomes: of searches that are answered together.
        limit: most bytes.

    Returns:
        The outcomes, with a `ReplyTooLarge` in place of each reply that was left out.
    """
    sizes = {
        place: text_bytes(one) for place, one in enumerate(outcomes) if isinstance(one, SearchReply) and one.fields
    }
    left_out = longest(sizes, limit)
    return [too_large(limit) if place in left_out else one for place, one in enumerate(outcomes)]


def longest(sizes: Mapping[int, int], limit: int) -> set[int]:
    """Which places of a batch to leave out so that the sizes of the others are at most a limit together."""
    left_out, total = set(), 0
    for place in sorted(sizes, key=sizes.__getitem__):
        total += sizes[place]
        if total > limit:
            left_out.add(place)
    return left_out


def too_large(limit: int) -> ReplyTooLarge:
    """The error of a reply that is longer than a limit."""
    return ReplyTooLarge(
        f"expected a reply of at most {limit:,} bytes (limits.max_reply_bytes): ask for fewer items, fields or"
        " queries at a time"
    )
