"""Results: the answers to a batch of queries, in columns, from a shard's arrays to the rows that clients get.

Letters: B queries, n items of all lists together, T tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field, fields, replace
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from silverray.shard.api import Coverage, SearchError, SearchReply, TaskScores
from silverray.shard.model.candidate_features import CandidateFeatures

Outcome = SearchReply | SearchError
Objects = NDArray[np.object_]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturedReply(SearchReply):
    """A list with the features of its items, on its way to whoever re-ranks or diversifies it.

    Attributes:
        features: of the items.
    """

    features: CandidateFeatures

    def take(self, places: NDArray[np.intp]) -> Self:
        """The items at `[m]` places, in that order."""
        # The zero-argument `super` does not know a class that was made anew for its slots.
        return replace(SearchReply.take(self, places), features=self.features.take(places))

    def plain(self) -> SearchReply:
        """The list without the features."""
        return SearchReply(**{name: getattr(self, name) for name in _OF_REPLIES})


_OF_REPLIES = tuple(field.name for field in fields(SearchReply))


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultBatch:
    """The answers to B queries: their lists one after another, and errors by place.

    Attributes:
        offsets: `[B + 1]` int64, where each list begins; the list of an error is empty.
        keys: `[n]` int64.
        scores: `[n]` float32.
        ids: `[n]` strings; None where the keys are the ids.
        names: of each query, the payload fields that it asked for.
        fields: the values of each payload field that any query asked for, `[n]`.
        ranked: `[B]` bool, whether tasks have ranked the list.
        tasks: what they make of the items; None where no list was ranked.
        features: of each list the features of its items, where they were asked for; None where no query did.
        version: of the snapshot that answered.
        seqs: log sequence number that each answer includes.
        coverages: what part of the catalog each answer rests on.
        explains: how each was found, where that was asked for.
        errors: by place.
    """

    offsets: NDArray[np.int64]
    keys: NDArray[np.int64]
    scores: NDArray[np.float32]
    ids: Objects | None
    names: tuple[tuple[str, ...], ...]
    fields: Mapping[str, Objects] = field(default_factory=dict)
    ranked: NDArray[np.bool_]
    tasks: TaskScores | None = None
    features: tuple[CandidateFeatures | None, ...] | None = None
    version: str
    seqs: tuple[int, ...]
    coverages: tuple[Coverage, ...]
    explains: tuple[dict[str, Any] | None, ...]
    errors: Mapping[int, SearchError] = field(default_factory=dict)

    @classmethod
    def failed(cls, errors: Sequence[SearchError], version: str) -> Self:
        """The results of queries that all ended with an error."""
        count = len(errors)
        return cls(
            offsets=np.zeros(count + 1, dtype=np.int64),
            keys=np.empty(0, dtype=np.int64),
            scores=np.empty(0, dtype=np.float32),
            ids=None,
            names=((),) * count,
            ranked=np.zeros(count, dtype=np.bool_),
            version=version,
            seqs=(0,) * count,
            coverages=(Coverage(),) * count,
            explains=(None,) * count,
            errors=dict(enumerate(errors)),
        )

    @classmethod
    def of(cls, outcomes: Sequence[Outcome], version: str) -> Self:
        """Put rows into columns."""
        return cls.joined([cls._of_one(outcome, version) for outcome in outcomes], version)

    @classmethod
    def joined(cls, parts: Sequence[Self], version: str) -> Self:
        """The results of several batches of one version, one after another."""
        if len(parts) == 1:
            return parts[0]
        if not parts:
            return cls.failed([], version)
        starts = np.cumsum([0, *(len(part) for part in parts)])
        errors = {
            int(start) + place: error
            for start, part in zip(starts, parts, strict=False)
            for place, error in part.errors.items()
        }
        features = None
        if any(part.features is not None for part in parts):
            features = tuple(chain.from_iterable(part.features or (None,) * len(part) for part in parts))
        return cls(
            offsets=np.concatenate([[0], np.cumsum(np.concatenate([np.diff(part.offsets) for part in parts]))]),
            **columns_of(parts),
            names=_chained(part.names for part in parts),
            ranked=np.concatenate([part.ranked for part in parts]),
            features=features,
            version=version,
            seqs=_chained(part.seqs for part in parts),
            coverages=_chained(part.coverages for part in parts),
            explains=_chained(part.explains for part in parts),
            errors=errors,
        )

    @classmethod
    def _of_one(cls, outcome: Outcome, version: str) -> Self:
        if isinstance(outcome, SearchError):
            return cls.failed([outcome], version)
        return cls(
            offsets=np.array([0, len(outcome.keys)], dtype=np.int64),
            keys=outcome.keys,
            scores=outcome.scores,
            ids=as_objects(outcome.ids) if isinstance(outcome.ids, list) else None,
            names=(tuple(outcome.fields),),
            fields={name: as_objects(values) for name, values in outcome.fields.items()},
            ranked=np.array([outcome.tasks is not None]),
            tasks=outcome.tasks,
            features=(outcome.features,) if isinstance(outcome, FeaturedReply) else None,
            version=version,
            seqs=(outcome.seq,),
            coverages=(outcome.coverage,),
            explains=(outcome.explain,),
        )

    def __len__(self) -> int:
        return len(self.seqs)

    def check(self, count: int) -> None:
        """Make sure that these are the results of so many queries, and that all columns fit one another.

        Raises:
            ValueError: a column has another length.
        """
        of_queries: list[Sized] = [self.names, self.ranked, self.seqs, self.coverages, self.explains]
        of_queries += [] if self.features is None else [self.features]
        if {len(self.offsets) - 1, *map(len, of_queries)} != {count}:
            raise ValueError(f"expected {count} outcomes, got columns of {[*map(len, of_queries)]}")
        of_items: list[Sized] = [self.keys, self.scores, *self.fields.values()]
        of_items += [] if self.ids is None else [self.ids]
        of_items += [] if self.tasks is None else [self.tasks.predictions, self.tasks.found]
        sizes = np.diff(self.offsets)
        if {int(self.offsets[-1]), *map(len, of_items)} != {int(sizes.sum())} or (sizes < 0).any():
            raise ValueError(f"expected {self.offsets[-1]} items, got columns of {[*map(len, of_items)]}")

    def take(self, places: Sequence[int]) -> Self:
        """The results at some places, in that order."""
        index = np.array(places, dtype=np.int64)
        if len(index) == len(self) and (index == np.arange(len(index))).all():
            return self
        offsets, items = _ranges(self.offsets[index], self.offsets[index + 1])
        return replace(
            self,
            offsets=offsets,
            **picked(columns_of([self]), items),
            names=_some(self.names, places),
            ranked=self.ranked[index],
            features=None if self.features is None else _some(self.features, places),
            seqs=_some(self.seqs, places),
            coverages=_some(self.coverages, places),
            explains=_some(self.explains, places),
            errors={to: self.errors[place] for to, place in enumerate(places) if place in self.errors},
        )

    def instead(self, errors: Mapping[int, SearchError]) -> Self:
        """The same results with an error in place of some."""
        if not errors:
            return self
        kept = [place for place in range(len(self)) if place not in errors]
        return self.take(kept).beside(errors)

    def beside(self, errors: Mapping[int, SearchError]) -> Self:
        """The results of a larger batch: errors have their places, and these results take the others in order."""
        if not errors:
            return self
        whole = self.joined([self, self.failed(list(errors.values()), self.version)], self.version)
        others = iter(range(len(self)))
        failed = {place: len(self) + row for row, place in enumerate(errors)}
        return whole.take([failed[place] if place in failed else next(others) for place in range(len(whole))])

    def rows(self) -> list[Outcome]:
        """The results as clients get them; their arrays are views of these columns."""
        edges = self.offsets.tolist()
        return [self._row(place, edges[place], edges[place + 1]) for place in range(len(self))]

    def _row(self, place: int, start: int, end: int) -> Outcome:
        if place in self.errors:
            return self.errors[place]
        keys = self.keys[start:end]
        reply = SearchReply(
            ids=keys if self.ids is None else self.ids[start:end].tolist(),
            keys=keys,
            scores=self.scores[start:end],
            fields={name: self.fields[name][start:end].tolist() for name in self.names[place]},
            version=self.version,
            seq=self.seqs[place],
            coverage=self.coverages[place],
            explain=self.explains[place],
            tasks=self.tasks.part(start, end) if self.tasks is not None and self.ranked[place] else None,
        )
        features = None if self.features is None else self.features[place]
        return reply if features is None else featured(reply, features)


def featured(reply: SearchReply, features: CandidateFeatures) -> FeaturedReply:
    """A list with the features of its items."""
    return FeaturedReply(features=features, **{name: getattr(reply, name) for name in _OF_REPLIES})


def picked(columns: Mapping[str, Any], items: NDArray[np.intp]) -> dict[str, Any]:
    """Columns, as of `columns_of`, of items at `[m]` places among them."""
    ids, tasks = columns["ids"], columns["tasks"]
    return {
        "keys": columns["keys"][items],
        "scores": columns["scores"][items],
        "ids": None if ids is None else ids[items],
        "fields": {name: values[items] for name, values in columns["fields"].items()},
        "tasks": None if tasks is None else tasks.take(items),
    }


def columns_of(parts: Sequence[ResultBatch]) -> dict[str, Any]:
    """The columns of the items of several batches, one after another; all but the features of candidates.

    Where only some parts have a column, the others have None in it, or undefined predictions.
    """
    if len(parts) == 1:
        (part,) = parts
        return {"keys": part.keys, "scores": part.scores, "ids": part.ids, "fields": part.fields, "tasks": part.tasks}
    ids = None
    if any(part.ids is not None for part in parts):
        ids = np.concatenate([np.empty(0, dtype=object) if part.ids is None else part.ids for part in parts])
    names = dict.fromkeys(chain.from_iterable(part.fields for part in parts))
    return {
        "keys": np.concatenate([part.keys for part in parts]),
        "scores": np.concatenate([part.scores for part in parts]),
        "ids": ids,
        "fields": {
            name: np.concatenate([_or_none(part.fields.get(name), len(part.keys)) for part in parts]) for name in names
        },
        "tasks": _tasks_of(parts),
    }


def as_objects(values: Sequence[Any]) -> Objects:
    """A column of Python's objects; lists among them stay lists."""
    return np.fromiter(values, dtype=object, count=len(values))


def _tasks_of(parts: Sequence[ResultBatch]) -> TaskScores | None:
    ranked = [part.tasks for part in parts if part.tasks is not None]
    if not ranked:
        return None
    width = ranked[0].predictions.shape[1]
    predictions, found = (
        np.concatenate(
            [np.full((len(part.keys), width), np.nan, np.float32) if part.tasks is None else part.tasks[column]
             for part in parts]
        )
        for column in (1, 2)
    )  # fmt: skip
    return TaskScores(ranked[0].names, predictions, found)


def _or_none(column: Objects | None, count: int) -> Objects:
    return np.full(count, None) if column is None else column


def _chained(columns: Iterable[tuple[Any, ...]]) -> tuple[Any, ...]:
    return tuple(chain.from_iterable(columns))


def _some(column: tuple[Any, ...], places: Sequence[int]) -> tuple[Any, ...]:
    return tuple([column[place] for place in places])


def _ranges(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Offsets of ranges that are put one after another, and the numbers in all of them."""
    offsets = np.concatenate([[0], np.cumsum(ends - starts)])
    return offsets, np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], ends - starts)
