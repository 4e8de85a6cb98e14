"""True answers, and recall against them that ties cannot distort."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

TIE = 1e-5
"""Between what sums in another order change of a score of length-1 vectors, 1e-7, and what tells items apart."""


class QueryFileError(ValueError):
    """A query or truth file cannot be used; the message names the file and the line."""


@dataclass(frozen=True, slots=True)
class Truth:
    """The true answer of one query.

    Attributes:
        scores: scores of the best items, best first.
        k: number of items that the query asks for.
    """

    scores: tuple[float, ...]
    k: int

    def recall(self, scores: Sequence[float]) -> float:
        """Share of the true places that are filled by items that score as well as the k-th true one, within `TIE`.

        Example:
            >>> Truth(scores=(0.9, 0.8, 0.8), k=2).recall([0.9, 0.1])
            0.5
        """
        places = min(self.k, len(self.scores))
        if places == 0:
            return 1.0
        threshold = self.scores[places - 1] - TIE
        return min(places, sum(score >= threshold for score in scores)) / places


def read_truths(file: Path, bodies: Sequence[bytes]) -> list[Truth]:
    """Read JSON lines `{"ids": [...], "scores": [...]}`, one for each search body.

    Args:
        file: the truth file.
        bodies: the bodies whose answers it holds, each with a single query.

    Raises:
        QueryFileError: the file does not fit the bodies, or a line is wrong.
    """
    try:
        lines = [line for line in file.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise QueryFileError(f"{file}: cannot be read: {error.strerror}") from None
    if len(lines) != len(bodies):
        raise QueryFileError(f"{file}: expected {len(bodies)} lines, one for each query, got {len(lines)}")
    return [
        _truth(f"{file}: line {number}", line, orjson.loads(body))
        for number, (line, body) in enumerate(zip(lines, bodies, strict=True), 1)
    ]


def _truth(place: str, line: bytes, body: dict[str, Any]) -> Truth:
    if "queries" in body:
        raise QueryFileError(f"{place}: its body holds several queries; recall needs one query a body")
    k = body.get("k", 10)
    try:
        document = orjson.loads(line)
        ids, scores = document["ids"], tuple(float(score) for score in document["scores"])
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        raise QueryFileError(f'{place}: expected {{"ids": [...], "scores": [...]}}') from None
    if len(ids) != len(scores) or any(a < b for a, b in pairwise(scores)):
        raise QueryFileError(f"{place}: expected one score for each id, best first")
    return Truth(scores, k)
