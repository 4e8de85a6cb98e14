"""Batches in columns: what travels between a router and a shard in another process.

A list of requests or replies is a list of small objects, and pickling each costs as much as answering it. A column
of them is one array or one tuple, in which an object that several rows share, such as a compiled filter, travels once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from operator import attrgetter
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from silverray.shard.api import Coverage, SearchError, SearchReply, SearchRequest, TaskScores
from silverray.shard.filter.compiler import CompiledFilter
from silverray.shard.model.candidate_features import Traits

Outcomes = list[SearchReply | SearchError]


class RequestBatch(NamedTuple):
    """Admitted requests in columns of length B; each column is named as in `SearchRequest`.

    Attributes:
        vectors: `[B, T, D]` float32.
    """

    vectors: NDArray[np.float32]
    filter: tuple[str | CompiledFilter | None, ...]
    k: tuple[int, ...]
    fields: tuple[tuple[str, ...], ...]
    mode: tuple[Any, ...]
    n_probe: tuple[int | None, ...]
    refine: tuple[Any, ...]
    timeout_s: tuple[float | None, ...]
    min_coverage: tuple[float, ...]
    min_seq: tuple[int, ...]
    explain: tuple[bool, ...]
    variant: tuple[str | None, ...]
    context: tuple[Mapping[str, Any] | None, ...]
    keys: tuple[NDArray[np.int64] | None, ...]
    quotas: tuple[tuple[int, ...], ...]
    traits: tuple[tuple[str, ...] | None, ...]

    @classmethod
    def of(cls, requests: Sequence[SearchRequest]) -> Self:
        """Put requests into columns; there is at least one, and each has vectors of one shape."""
        vectors = np.array([request.vectors for request in requests], dtype=np.float32)
        return cls(vectors, *zip(*map(_request_columns, requests), strict=True))

    def requests(self) -> list[SearchRequest]:
        """The requests again; their vectors are views of the batch's."""
        return [
            SearchRequest(
                vectors=vectors,
                filter=filter_,
                k=k,
                fields=fields,
                mode=mode,
                n_probe=n_probe,
                refine=refine,
                timeout_s=timeout_s,
                min_coverage=min_coverage,
                min_seq=min_seq,
                explain=explain,
                variant=variant,
                context=context,
                keys=keys,
                quotas=quotas,
                traits=traits,
            )
            for (
                vectors, filter_, k, fields, mode, n_probe, refine, timeout_s, min_coverage, min_seq, explain, variant,
                context, keys, quotas, traits,
            ) in zip(*self, strict=True)
        ]  # fmt: skip


_request_columns = attrgetter(*RequestBatch._fields[1:])


class ReplyBatch(NamedTuple):
    """The outcomes of a batch: its R replies in columns, and the errors by their place.

    Attributes:
        keys: `[n]` int64, the replies' keys one after another.
        scores: `[n]` float32, likewise.
        counts: how many items each reply has.
        ids: each reply's ids where ids are strings; None where the keys are the ids.
        fields: each reply's payload; None where no reply has any.
        versions: each reply's snapshot version.
        seqs: each reply's log sequence number.
        coverages: each reply's coverage.
        explains: each reply's explanation.
        tasks: what the tasks make of each reply's items; None where no reply was ranked.
        traits: each reply's traits.
        errors: error by place in the batch; the replies take the other places in order.
    """

    keys: NDArray[np.int64]
    scores: NDArray[np.float32]
    counts: tuple[int, ...]
    ids: list[list[str]] | None
    fields: list[dict[str, list[Any]]] | None
    versions: tuple[str, ...]
    seqs: tuple[int, ...]
    coverages: tuple[Coverage, ...]
    explains: tuple[dict[str, Any] | None, ...]
    tasks: tuple[TaskScores | None, ...] | None
    traits: tuple[Traits | None, ...]
    errors: dict[int, SearchError]

    @classmethod
    def of(cls, outcomes: Sequence[SearchReply | SearchError]) -> Self:
        """Put outcomes into columns."""
        replies = [outcome for outcome in outcomes if isinstance(outcome, SearchReply)]
        errors = {place: outcome for place, outcome in enumerate(outcomes) if isinstance(outcome, SearchError)}
        if not replies:
            no_keys, no_scores = np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)
            return cls(no_keys, no_scores, (), None, None, (), (), (), (), None, (), errors)
        keys, scores, fields, versions, seqs, coverages, explains, tasks, traits = zip(
            *map(_reply_columns, replies), strict=True
        )
        texts = [reply.ids for reply in replies if isinstance(reply.ids, list)]
        return cls(
            np.concatenate(keys),
            np.concatenate(scores),
            tuple(map(len, keys)),
            texts or None,
            list(map(dict, fields)) if any(fields) else None,
            versions,
            seqs,
            coverages,
            explains,
            tasks if any(tasks) else None,
            traits,
            errors,
        )

    def outcomes(self) -> Outcomes:
        """The outcomes again; the arrays of the replies are views of the batch's."""
        n = len(self.counts)
        edges = list(pairwise(accumulate(self.counts, initial=0)))
        keys = [self.keys[start:stop] for start, stop in edges]
        scores = [self.scores[start:stop] for start, stop in edges]
        columns = self.versions, self.seqs, self.coverages, self.explains, self.traits
        outcomes: Outcomes = [
            SearchReply(
                ids=ids,
                keys=keys,
                scores=scores,
                fields=fields,
                version=version,
                seq=seq,
                coverage=coverage,
                explain=explain,
                tasks=tasks,
                traits=traits,
            )
            for ids, keys, scores, fields, tasks, version, seq, coverage, explain, traits in zip(
                self.ids or keys, keys, scores, self.fields or [{}] * n, self.tasks or [None] * n, *columns, strict=True
            )
        ]
        for place in sorted(self.errors):
            outcomes.insert(place, self.errors[place])
        return outcomes


_reply_columns = attrgetter("keys", "scores", "fields", "version", "seq", "coverage", "explain", "tasks", "traits")
