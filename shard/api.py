"""What crosses the boundary of a searcher: requests, replies, errors and the `Searcher` protocol.

Every layer above (router, cluster, HTTP client) re-uses these types, so one test file
can hold every implementation to the same answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

Mode = Literal["exact", "bloom"]
ItemId = int | str

MAX_K = 10_000
"""Largest k that a search may ask for."""
MAX_FEATURES_K = 1_000
"""Largest k of a search that is diversified, or whose list a set-wise scorer re-ranks: each candidate then brings its
vector, some kilobytes."""
MAX_STRENGTH = 1e9
"""Largest strength of diversification."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """One query, as a client makes it.

    Attributes:
        vectors: `[T, D]` float32, one query vector per task; None when `user` is given.
        user: user features, turned into vectors by the router's encoder; None when `vectors` is given.
        filter: filter text; None lets every item pass.
        k: number of items wanted, 1 to `MAX_K`.
        fields: names of payload fields to return.
        mode: "exact" verifies every uncertain filter term; "bloom" leaves positive hashed terms unverified.
        n_probe: clusters to scan, no more and no fewer; None lets the planner decide (never short without need).
        refine: "all" gives every scanned candidate its exact score; None only the best of the coarse scores.
        min_score: items with a lower score are left out; None keeps all. Given items to rank are all kept.
        timeout_s: time left for this request in seconds when it is handed over; None waits for ever.
        min_coverage: least fraction of the items that must have been searched, 0 to 1.
        min_seq: least log sequence number that the answer must include.
        explain: whether the reply says how it was found.
        variant: name of the formula that values the items; None is the default.
        context: what formulas read of the request, by name; user features under `user.NAME`.
        keys: `[k]` int64 keys of items to rank, those that there are not left out; None searches.
        diversify: strength at which a router diversifies the merged list, 0 to `MAX_STRENGTH`; None leaves it by score.
    """

    vectors: NDArray[np.float32] | None = None
    user: Mapping[str, Any] | None = None
    filter: str | None = None
    k: int = 10
    fields: tuple[str, ...] = ()
    mode: Mode = "exact"
    n_probe: int | None = None
    refine: Literal["all"] | None = None
    min_score: float | None = None
    timeout_s: float | None = None
    min_coverage: float = 0.0
    min_seq: int = 0
    explain: bool = False
    variant: str | None = None
    context: Mapping[str, Any] | None = None
    keys: NDArray[np.int64] | None = None
    diversify: float | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of the catalog an answer rests on.

    Attributes:
        shards: shards that were asked.
        answered: shards whose answer is in the reply.
        items_fraction: fraction of the catalog's items held by the shards that answered, 0 to 1.
    """

    shards: int = 1
    answered: int = 1
    items_fraction: float = 1.0

    @property
    def degraded(self) -> bool:
        """Whether any shard is missing."""
        return self.answered < self.shards


class TaskScores(NamedTuple):
    """What the tasks of a model make of the items of a list.

    Attributes:
        names: the tasks.
        predictions: `[n, T]` float32.
        found: `[n, T]` float32, the score with which each task found the item among its candidates; -inf where it did
            not.
    """

    names: tuple[str, ...]
    predictions: NDArray[np.float32]
    found: NDArray[np.float32]

    def take(self, places: NDArray[np.intp]) -> TaskScores:
        """Those of some of the items."""
        return TaskScores(self.names, self.predictions[places], self.found[places])

    def part(self, start: int, end: int) -> TaskScores:
        """Those of items that stand one after another; views."""
        return TaskScores(self.names, self.predictions[start:end], self.found[start:end])


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchReply:
    """The best items of one query, by (score desc, key asc), or in the order of diversification where it was asked for.

    Attributes:
        ids: the item ids, best first: `[n]` int64, or a list of n strings where ids are strings.
        keys: `[n]` int64 item keys (equal to the ids where those are integers).
        scores: `[n]` float32.
        fields: one list of n values per payload field that was asked for; None is a missing value.
        version: version of the snapshot that answered.
        seq: log sequence number that the answer includes.
        coverage: what part of the catalog was searched.
        explain: how the answer was found, when asked for.
        tasks: predictions for every task; None where the items were not ranked, but stand as they were found.
    """

    ids: NDArray[np.int64] | list[str]
    keys: NDArray[np.int64]
    scores: NDArray[np.float32]
    fields: Mapping[str, list[Any]] = field(default_factory=dict)
    version: str
    seq: int = 0
    coverage: Coverage = Coverage()
    explain: dict[str, Any] | None = None
    tasks: TaskScores | None = None

    def take(self, places: NDArray[np.intp]) -> Self:
        """The items at `[m]` places, in that order."""
        listed = places.tolist()
        return replace(
            self,
            ids=[self.ids[place] for place in listed] if isinstance(self.ids, list) else self.ids[places],
            keys=self.keys[places],
            scores=self.scores[places],
            fields={name: [values[place] for place in listed] for name, values in self.fields.items()},
            tasks=self.tasks and self.tasks.take(places),
        )


_JSON_TYPES = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    tuple: "array",
    dict: "object",
    bytes: "bin",
}
_BEYOND = 2**64
"""Longer integers are not written out: Python refuses thousands of digits."""


def json_type(value: object) -> str:
    """The type of a client's value in the words of JSON and MessagePack."""
    return _JSON_TYPES.get(type(value), type(value).__name__)


def shown(value: object) -> str:
    """A client's value as a message shows it.

    Of all but single values only the type is told: a list may be long, or nested deeper than `repr` can follow.

    Example:
        >>> shown("US"), shown([[1]]), shown(True)
        ("'US'", 'array', 'true')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and abs(value) >= _BEYOND:
        return "an integer beyond 64 bits"
    return repr(value)[:60] if isinstance(value, int | float | str) else json_type(value)


class SearchError(Exception):
    """An error with a stable code that a client can act on.

    Args:
        message: what was wrong, for a person.
        where: path of the offending part of the request, such as `queries[3].filter`.
    """

    code = "internal"
    status = 500

    def __init__(self, message: str, where: str | None = None) -> None:
        super().__init__(message, where)
        self.message = message
        self.where = where

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.where else self.message


class InvalidRequest(SearchError):
    """The request itself is wrong: asking again will not help."""

    code = "invalid_request"
    status = 422


class TextError(InvalidRequest):
    """A text of one of the languages is wrong.

    Args:
        message: what was wrong.
        position: 0-based character position in the text.
        expected: what would have been accepted there.
        hint: how to mend it.
        where: path of the text in the request or configuration.
    """

    def __init__(
        self,
        message: str,
        position: int,
        expected: Sequence[str] = (),
        hint: str | None = None,
        where: str | None = None,
    ) -> None:
        super().__init__(message, where)
        self.position = position
        self.expected = tuple(expected)
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.position, self.expected, self.hint, self.where)

    def __str__(self) -> str:
        hint = f"; {self.hint}" if self.hint else ""
        return f"{super().__str__()} (at character {self.position}{hint})"


class FilterError(TextError):
    """The filter text is wrong; see `TextError`."""

    code = "invalid_filter"

    def __init__(
        self,
        message: str,
        position: int,
        expected: Sequence[str] = (),
        hint: str | None = None,
        where: str | None = "filter",
    ) -> None:
        super().__init__(message, position, expected, hint, where)


class FormulaError(TextError):
    """A formula of the value model is wrong; see `TextError`."""

    code = "invalid_formula"


class ReplyTooLarge(InvalidRequest):
    """What was asked for is more than may be put into one reply."""

    code = "reply_too_large"
    status = 422


class Overloaded(SearchError):
    """A bounded queue is full; ask again after `RETRY_AFTER_S` seconds."""

    code = "overloaded"
    status = 503
    RETRY_AFTER_S = 1


class CoverageTooLow(SearchError):
    """Fewer items were searched than the request's `min_coverage` allows."""

    code = "coverage_too_low"
    status = 503


class SequenceNotReached(SearchError):
    """No answer that includes the request's `min_seq` could be had in time."""

    code = "sequence_not_reached"
    status = 503


class EncoderUnavailable(SearchError):
    """User features cannot be turned into vectors now."""

    code = "encoder_unavailable"
    status = 503


class DeadlineExceeded(SearchError):
    """Nothing was found in time."""

    code = "deadline_exceeded"
    status = 504


class SnapshotError(Exception):
    """A snapshot is missing, incomplete or altered; the message names the file."""


class ShardTooLarge(RuntimeError):
    """A shard does not fit into the memory that is free; the message says what it needs, by component."""


class Searcher(Protocol):
    """Anything that answers batches of queries: a shard, a router, an HTTP client, a brute-force scan."""

    async def search(self, requests: Sequence[SearchRequest]) -> list[SearchReply | SearchError]:
        """Answer every request of a batch, in order.

        Args:
            requests: the batch.

        Returns:
            One reply, or the error that concerns that request alone, per request.

        Raises:
            SearchError: the whole batch failed.
        """
        ...


class Encoder(Protocol):
    """Turns user features into query vectors."""

    async def encode(self, users: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        """Encode a batch of users.

        Args:
            users: one mapping of feature name to value per user.

        Returns:
            `[B, T, D]` float32 task vectors.

        Raises:
            InvalidRequest: a required feature is missing or has the wrong type; `where` is `user[i].NAME`.
            EncoderUnavailable: the encoder cannot answer now.
        """
        ...
