"""Answers to requests, made of what their shards had said by their deadlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from silverray.router.batch.merge import MergeTask, merge_batch
from silverray.router.errors import Unavailable
from silverray.shard.api import (
    Coverage,
    CoverageTooLow,
    DeadlineExceeded,
    Overloaded,
    ReplyTooLarge,
    SearchError,
    SearchReply,
    SearchRequest,
    SequenceNotReached,
)


class Share(NamedTuple):
    """What one shard made of one request.

    Attributes:
        name: the shard's name.
        items: number of items that it holds.
        outcome: its reply or error; None when it had not answered by the deadline.
    """

    name: str
    items: int
    outcome: SearchReply | SearchError | None


def combine(
    requests: Sequence[SearchRequest], shares: Sequence[Sequence[Share]], version: str
) -> list[SearchReply | SearchError]:
    """Answer requests of one batch from their shards' shares.

    A share counts as answered when it is a reply of the asked version. A shard that is known to lag behind
    `min_seq` fails the request, since the write that the client waits for may be there; a silent one only
    degrades it.

    Args:
        requests: the requests, as they were sent to the shards.
        shares: for each request one share per shard.
        version: snapshot version that an answer must come from.

    Returns:
        For each request the merged reply with its coverage, or the error that it ends with.
    """
    verdicts = [_judge(request, its, version) for request, its in zip(requests, shares, strict=True)]
    merged = iter(merge_batch([verdict for verdict in verdicts if not isinstance(verdict, SearchError)]))
    outcomes = [verdict if isinstance(verdict, SearchError) else next(merged) for verdict in verdicts]
    for place, request in enumerate(requests):
        outcome = outcomes[place]
        if request.explain and isinstance(outcome, SearchReply):
            outcomes[place] = _explained(outcome, request, shares[place], version)
    return outcomes


def _judge(request: SearchRequest, shares: Sequence[Share], version: str) -> MergeTask | SearchError:
    """What is to be merged for a request, or the error that it ends with."""
    answered: list[tuple[Share, SearchReply]] = []
    lagging = False
    for share in shares:
        outcome = share.outcome
        if isinstance(outcome, ReplyTooLarge):  # the shard is well, and its items must not be missed
            return outcome
        if isinstance(outcome, SequenceNotReached):
            lagging = True
        elif isinstance(outcome, SearchReply) and outcome.version == version:
            answered.append((share, outcome))
            lagging = lagging or outcome.seq < request.min_seq
    if lagging:
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
    replies = [reply for _, reply in answered]
    # Quotas are filled from all that the shards have sent.
    k = sum(len(reply.keys) for reply in replies) if request.quotas else request.k
    return MergeTask(replies, k, coverage)


def _explained(reply: SearchReply, request: SearchRequest, shares: Sequence[Share], version: str) -> SearchReply:
    explains = {
        share.name: share.outcome.explain
        for share in shares
        if isinstance(share.outcome, SearchReply) and share.outcome.version == version
    }
    return replace(reply, explain={"short": len(reply.keys) < request.k, "shards": explains})


def _coverage(shares: Sequence[Share], answered: Sequence[tuple[Share, SearchReply]]) -> Coverage:
    # A backend may be a router itself: its own coverage counts.
    asked = len(shares) - len(answered)
    replied = 0
    covered = 0.0
    for share, reply in answered:
        asked += reply.coverage.shards
        replied += reply.coverage.answered
        covered += share.items * reply.coverage.items_fraction
    total = sum([share.items for share in shares])
    return Coverage(asked, replied, covered / total if total else len(answered) / len(shares))


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
