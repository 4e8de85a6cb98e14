"""MovieLens as requests: what somebody rates within a minute was shown to them in one request."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from silverray.cluster.demo.movielens import LIKED, MovieLens, films_table
from silverray.shard.train.convert import COMPRESSION, convert
from silverray.shard.train.format import ITEM, TIME, USER, RequestFormat
from silverray.shard.train.interactions import Interactions

SPAN_S = 60
"""Ratings so many seconds after the first of a request, or more, begin another: 4 impressions a request. Longer ones
are fewer bytes, but know less of what was just liked; see `silverray bench roo`."""

STORED_HISTORY = 50
"""Latest likes that a request to train on is stored with; how many of them count, the format says."""

HELD_OUT = 0.1
"""Part of the likes, the latest, that nothing is trained on: 5,541, so that recall is told to .006. More would leave
less to learn from."""

_FORMAT = "movielens-features.yaml"


class RequestFiles(NamedTuple):
    """The data set in Parquet files.

    Attributes:
        impressions: all ratings before the first held-out like, one row each.
        requests: the same as requests.
        held_out: the likes that were held out, as requests of one moment each, with whole histories.
        items: the films.
    """

    impressions: Path
    requests: Path
    held_out: Path
    items: Path


def movielens_format() -> RequestFormat:
    """Tasks `liked` (a rating of 4 or 5) and `watched` (any rating); films liked before, age, gender and occupation."""
    text = files("silverray.configs").joinpath(_FORMAT).read_text(encoding="utf-8")
    return RequestFormat.parse(text, _FORMAT)


def split_time(data: MovieLens, held_out: float) -> int:
    """When the last `held_out` fraction of the likes begins.

    Raises:
        ValueError: no like is before.
    """
    likes = _likes(data)
    split = likes.split_row(held_out)
    if split == 0:
        raise ValueError("held_out: expected some likes before those that are held out, got none")
    return int(likes.times[split])


def write_requests(data: MovieLens, folder: Path, *, held_out: float, span_s: int = SPAN_S) -> RequestFiles:
    """Make requests of ratings, and hold the last likes out.

    Args:
        data: the ratings.
        folder: where to write, made if need be.
        held_out: last fraction of the likes. Nothing of their time is in `requests`.
        span_s: see `silverray.shard.train.convert.convert`; a request knows what was liked before its first rating.

    Returns:
        The files.

    Raises:
        ValueError: no rating is left to train on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    liked = data.ratings >= LIKED
    likes = _likes(data)
    from_then_on = data.times >= split_time(data, held_out)
    format = movielens_format()
    made = RequestFiles(*(folder / f"{name}.parquet" for name in RequestFiles._fields))
    _write_impressions(made.impressions, data, format, likes, np.flatnonzero(~from_then_on), STORED_HISTORY)
    convert(made.impressions, format, made.requests, span_s=span_s)
    _write_held_out(made.held_out, data, format, likes, np.flatnonzero(from_then_on & liked))
    pq.write_table(films_table(data), made.items, compression=COMPRESSION)
    return made


def write_held_out_ratings(data: MovieLens, file: Path, *, held_out: float) -> None:
    """Write all ratings of the held-out time, likes or not, in the form of `RequestFiles.held_out`."""
    rows = np.flatnonzero(data.times >= split_time(data, held_out))
    _write_held_out(file, data, movielens_format(), _likes(data), rows)


def _write_held_out(
    file: Path, data: MovieLens, format: RequestFormat, likes: Interactions, rows: NDArray[np.int64]
) -> None:
    _write_impressions(file, data, format, likes, rows, None)
    requests = file.with_name(f"requests of {file.name}")
    convert(file, format, requests, span_s=1)
    requests.replace(file)


def _likes(data: MovieLens) -> Interactions:
    liked = data.ratings >= LIKED
    return Interactions(data.rater_ids[liked], data.film_ids[liked], data.times[liked])


def _write_impressions(
    file: Path,
    data: MovieLens,
    format: RequestFormat,
    likes: Interactions,
    rows: NDArray[np.int64],
    length: int | None,
) -> None:
    """Ratings as impressions; each knows the latest `length` likes before it, or all where that is None."""
    users, times = data.rater_ids[rows], data.times[rows]
    histories = likes.before(users, times)
    raters = {rater.id: rater for rater in data.raters}
    of_user = [raters[user] for user in users.tolist()]
    labels = {"liked": data.ratings[rows] >= LIKED, "watched": np.full(len(rows), True)}
    table = pa.table(
        {
            USER: users,
            TIME: times,
            format.user.history_name: [items if length is None else items[-length:] for items in histories],
            "age": [float(rater.age) for rater in of_user],
            "gender": [rater.gender for rater in of_user],
            "occupation": [rater.occupation for rater in of_user],
            ITEM: data.film_ids[rows],
            **{task: labels[task] for task in format.tasks},
        }
    )
    pq.write_table(table, file, compression=COMPRESSION)
