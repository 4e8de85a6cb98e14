"""MovieLens as requests: what somebody rates within a short time was shown to them in one request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from silverray.cluster.movielens import LIKED, YEARS, MovieLens
from silverray.shard.model.features import UserFeatures
from silverray.shard.train.interactions import Interactions
from silverray.shard.train.jagged import Jagged
from silverray.shard.train.requests import ITEM, Requests

TASKS = ("like",)


@dataclass(frozen=True, slots=True)
class MovieLensRequests:
    """The data set for training and for judging what was learned. Item id n is film n - 1 of the data set.

    Attributes:
        train: requests before the first held-out like.
        sizes: number of codes of every feature, the unknown one included; those of users, then of items.
        held_out_users: user features at the time of each held-out like.
        liked: `[n]` int64 item id of each held-out like.
        seen: of each held-out like, the ids of what its user had liked before.
        like_counts: `[N + 1]` int64 training likes of each item id.
    """

    train: Requests
    sizes: tuple[Mapping[str, int], Mapping[str, int]]
    held_out_users: Mapping[str, Jagged]
    liked: NDArray[np.int64]
    seen: list[NDArray[np.int64]]
    like_counts: NDArray[np.int64]


def movielens_requests(
    data: MovieLens, features: UserFeatures, *, session_s: int, held_out: float
) -> MovieLensRequests:
    """Make requests of ratings and hold the last ones out.

    Args:
        data: the ratings.
        features: the rules of the user features.
        session_s: ratings of one person within so many seconds of the first are impressions of one request, which
            knows what was liked before that first one.
        held_out: last fraction of the likes that is not trained on, nor is any rating of that time.

    Raises:
        ValueError: no rating is left to train on.
    """
    raters = np.searchsorted([rater.id for rater in data.raters], data.rater_ids)
    items = np.searchsorted([film.id for film in data.films], data.film_ids) + 1
    liked = data.ratings >= LIKED
    likes = Interactions(raters[liked], items[liked], data.times[liked])
    split = likes.split_row(held_out)
    if split == 0:
        raise ValueError("interactions: expected some likes before the time of the held-out ones")
    early = np.flatnonzero(data.times < likes.times[split])
    order = early[np.lexsort((data.times[early], raters[early]))]
    starts = _session_starts(raters[order], data.times[order], session_s)
    first = order[starts]
    users = _UserFeatures(data, features)
    seen = likes.earlier()[split:]
    catalog, item_sizes = _catalog(data)
    user_sizes = {features.history_name: len(data.films) + 1}
    user_sizes |= {name: rule.size for name, rule in features.categories.items()}
    return MovieLensRequests(
        train=Requests(
            user=users.at(raters[first], likes.before(raters[first], data.times[first])),
            shown=Jagged(items[order], np.append(starts, len(order))),
            labels=liked[order, None].astype(np.float32),
            times=data.times[first],
            catalog=catalog,
        ),
        sizes=(user_sizes, item_sizes),
        held_out_users=users.at(likes.users[split:], seen),
        liked=likes.items[split:],
        seen=seen,
        like_counts=np.bincount(likes.items[:split], minlength=len(data.films) + 1),
    )


class _UserFeatures:
    def __init__(self, data: MovieLens, features: UserFeatures) -> None:
        self._features = features
        self._codes = {
            name: np.array([rule.code(getattr(rater, name)) for rater in data.raters])
            for name, rule in features.categories.items()
        }

    def at(self, raters: NDArray[np.int64], liked: list[NDArray[np.int64]]) -> dict[str, Jagged]:
        history = [items[-self._features.history.length :] for items in liked]
        columns = {self._features.history_name: Jagged.of(history)}
        return columns | {name: Jagged.single(codes[raters]) for name, codes in self._codes.items()}


def _session_starts(raters: NDArray[np.int64], times: NDArray[np.int64], session_s: int) -> NDArray[np.int64]:
    """Rows at which a request begins; ratings are by rater, then by time."""
    starts, rater, opened = [], -1, 0
    for row, (own, time) in enumerate(zip(raters.tolist(), times.tolist(), strict=True)):
        if own != rater or time - opened >= session_s:
            starts.append(row)
            rater, opened = own, time
    return np.array(starts, np.int64)


def _catalog(data: MovieLens) -> tuple[dict[str, Jagged], dict[str, int]]:
    genres = sorted({genre for film in data.films for genre in film.genres})
    codes = [[], *([genres.index(genre) + 1 for genre in film.genres] for film in data.films)]
    years = [0, *(0 if film.year is None else YEARS.code(film.year) for film in data.films)]
    catalog = {
        ITEM: Jagged.single(np.arange(len(data.films) + 1)),
        "genres": Jagged.of(codes),
        "year": Jagged.single(np.array(years)),
    }
    return catalog, {ITEM: len(data.films) + 1, "genres": len(genres) + 1, "year": YEARS.size}
