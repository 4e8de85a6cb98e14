"""One request's answer, made of what its shards had said by its deadline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from silverray.router.errors import Unavailable
from silverray.router.merge import merge_replies
from silverray.shard.api import (
    Coverage,
    CoverageTooLow,
    DeadlineExceeded,
    Overloaded,
    SearchError,
    SearchReply,
    SearchRequest,
    SequenceNotReached,
)


@dataclass(frozen=True, slots=True)
class Share:
    """What one shard made of one request.

    Attributes:
        name: the shard's name.
        items: number of items that it holds.
        outcome: its reply or error; None when it had not answered by the deadline.
    """

    name: str
    items: int
    outcome: SearchReply | SearchError | None


def combine(request: SearchRequest, shares: Sequence[Share], version: str) -> SearchReply | SearchError:
    """Answer a request from its shards' shares.

    A share counts as answered when it is a reply of the asked version. A shard that is known to lag behind
    `min_seq` fails the request, since the write that the client waits for may be there; a silent one only
    degrades it.

    Args:
        request: the request, as it was sent to the shards.
        shares: one share per shard.
        version: snapshot version that an answer must come from.

    Returns:
        The merged reply with its coverage, or the error that the request ends with.
    """
    answered = [
        (share, share.outcome)
        for share in shares
        if isinstance(share.outcome, SearchReply) and share.outcome.version == version
    ]
    lagging = any(isinstance(share.outcome, SequenceNotReached) for share in shares)
    if lagging or any(reply.seq < request.min_seq for _, reply in answered):
        return SequenceNotReached(f"a shard has not reached sequence number {request.min_seq}", "min_seq")
    if not answered:
        return _failure(shares)
    coverage = _coverage(shares, answered)
    if coverage.items_fraction < request.min_coverage:
        return CoverageTooLow(
            f"expected at least {request.min_coverage:.4g} of the items to be searched,"
            f" got {coverage.items_fraction:.4g} from {coverage.answered} of {coverage.shards} shards",
            "min_coverage",
        )
    merged = merge_replies([reply for _, reply in answered], request.k)
    explain: dict[str, Any] | None = None
    if request.explain:
        shards = {share.name: reply.explain for share, reply in answered}
        explain = {"short": len(merged.keys) < request.k, "shards": shards}
    return replace(merged, coverage=coverage, explain=explain)


def _coverage(shares: Sequence[Share], answered: Sequence[tuple[Share, SearchReply]]) -> Coverage:
    # A backend may be a router itself: its own coverage counts.
    silent = len(shares) - len(answered)
    total = sum(share.items for share in shares)
    covered = sum(share.items * reply.coverage.items_fraction for share, reply in answered)
    return Coverage(
        shards=silent + sum(reply.coverage.shards for _, reply in answered),
        answered=sum(reply.coverage.answered for _, reply in answered),
        items_fraction=covered / total if total else len(answered) / len(shares),
    )


def _failure(shares: Sequence[Share]) -> SearchError:
    """The error of a request that no shard answered: the client's own mistake first, then time, then load."""
    errors = [share.outcome for share in shares if isinstance(share.outcome, SearchError)]
    for error in errors:
        if error.status < 500:
            return error
    if any(share.outcome is None or isinstance(share.outcome, DeadlineExceeded) for share in shares):
        return DeadlineExceeded(f"none of {len(shares)} shards answered in time")
    if errors and all(isinstance(error, Overloaded) for error in errors):
        return Overloaded(f"all of {len(shares)} shards are overloaded")
    return Unavailable(f"none of {len(shares)} shards could answer")
