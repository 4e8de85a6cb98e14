"""Answers to queries, made of what their shards had said by their deadlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from silverray.router.batch.merge import merge
from silverray.router.errors import Unavailable
from silverray.shard.api import (
    Coverage,
    CoverageTooLow,
    DeadlineExceeded,
    Overloaded,
    ReplyTooLarge,
    SearchError,
    SequenceNotReached,
)
from silverray.shard.query import Query
from silverray.shard.result_batch import ResultBatch

_COMPLETE = Coverage()


class Share(NamedTuple):
    """What one shard made of some queries.

    Attributes:
        name: the shard's name.
        items: number of items that it holds.
        results: its answers; `DeadlineExceeded` where it had none by a query's deadline.
    """

    name: str
    items: int
    results: ResultBatch


class _Verdict(NamedTuple):
    """Which shares, by place, are merged for a query, and the coverage of their merge."""

    shares: tuple[int, ...]
    coverage: Coverage


def combine(queries: Sequence[Query], shares: Sequence[Share], version: str) -> ResultBatch:
    """Answer queries of one batch from their shards' shares.

    A shard that is known to lag behind
    `min_seq` fails the query, since the write that the client waits for may be there; a silent one only
    degrades it.

    Args:
        queries: as they were sent to the shards.
        shares: one per shard.
        version: of the snapshot.

    Returns:
        For each query the merged list with its coverage, or the error that it ends with.
    """
    if _complete(queries, shares):
        whole = _Verdict(tuple(range(len(shares))), Coverage(len(shares), len(shares), 1.0))
        return _merged(queries, shares, [whole] * len(queries))
    errors: dict[int, SearchError] = {}
    groups: dict[tuple[int, ...], dict[int, _Verdict]] = {}
    for place, query in enumerate(queries):
        verdict = _judge(query, shares, place)
        if isinstance(verdict, SearchError):
            errors[place] = verdict
        else:
            groups.setdefault(verdict.shares, {})[place] = verdict
    parts, order = [ResultBatch.failed([*errors.values()], version)], [*errors]
    for chosen, verdicts in groups.items():
        some = [share._replace(results=share.results.take([*verdicts])) for share in (shares[row] for row in chosen)]
        parts.append(_merged([queries[place] for place in verdicts], some, [*verdicts.values()]))
        order += verdicts
    return ResultBatch.joined(parts, version).take(np.argsort(order).tolist())


def _complete(queries: Sequence[Query], shares: Sequence[Share]) -> bool:
    """Whether every shard has answered every query as it was asked, which is the rule."""
    min_seq = max(query.min_seq for query in queries)
    return all(
        not share.results.errors
        and share.results.coverages.count(_COMPLETE) == len(queries)
        and min(share.results.seqs) >= min_seq
        for share in shares
    )


def _merged(queries: Sequence[Query], shares: Sequence[Share], verdicts: Sequence[_Verdict]) -> ResultBatch:
    results = [share.results for share in shares]
    # Quotas are filled from all that the shards have sent.
    limits = [sum(len(part.keys) for part in results) if query.quotas else query.k for query in queries]
    merged = merge(results, limits, [verdict.coverage for verdict in verdicts])
    if not any(query.explain for query in queries):
        return merged
    counts = np.diff(merged.offsets).tolist()
    explains = tuple(
        {"short": count < query.k, "shards": {share.name: share.results.explains[place] for share in shares}}
        if query.explain
        else None
        for place, (query, count) in enumerate(zip(queries, counts, strict=True))
    )
    return replace(merged, explains=explains)


def _judge(query: Query, shares: Sequence[Share], place: int) -> _Verdict | SearchError:
    """What is to be merged for a query, or the error that it ends with."""
    answered: list[int] = []
    lagging = False
    for row, share in enumerate(shares):
        error = share.results.errors.get(place)
        if isinstance(error, ReplyTooLarge):  # the shard is well, and its items must not be missed
            return error
        if isinstance(error, SequenceNotReached):
            lagging = True
        elif error is None:
            answered.append(row)
            lagging = lagging or share.results.seqs[place] < query.min_seq
    if lagging:
        return SequenceNotReached(f"a shard has not reached sequence number {query.min_seq}", "min_seq")
    if not answered:
        return _failure(shares, place)
    coverage = _coverage(shares, answered, place)
    if coverage.items_fraction < query.min_coverage:
        return CoverageTooLow(
            f"expected at least {query.min_coverage:.4g} of the items to be searched,"
            f" got {coverage.items_fraction:.4g} from {coverage.answered} of {coverage.shards} shards",
            "min_coverage",
        )
    return _Verdict(tuple(answered), coverage)


def _coverage(shares: Sequence[Share], answered: Sequence[int], place: int) -> Coverage:
    # A backend may be a router itself: its own coverage counts.
    asked = len(shares) - len(answered)
    replied = 0
    covered = 0.0
    for row in answered:
        its = shares[row].results.coverages[place]
        asked += its.shards
        replied += its.answered
        covered += shares[row].items * its.items_fraction
    total = sum([share.items for share in shares])
    return Coverage(asked, replied, covered / total if total else len(answered) / len(shares))


def _failure(shares: Sequence[Share], place: int) -> SearchError:
    """The error of a query that no shard answered: the client's own mistake first, then time, then load."""
    errors = [share.results.errors[place] for share in shares if place in share.results.errors]
    for error in errors:
        if error.status < 500:
            return error
    if any(isinstance(error, DeadlineExceeded) for error in errors):
        return DeadlineExceeded(f"none of {len(shares)} shards answered in time")
    if errors and all(isinstance(error, Overloaded) for error in errors):
        return Overloaded(f"all of {len(shares)} shards are overloaded")
    return Unavailable(f"none of {len(shares)} shards could answer")
