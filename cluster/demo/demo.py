"""`silverray demo`: MovieLens from ratings to answers over HTTP, on a cluster of its own."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from rich.box import SIMPLE_HEAD
from rich.table import Table

from silverray.cluster.commands.item_files import read_items
from silverray.cluster.commands.loadtest import LoadFailed, measure, run_loadtest
from silverray.cluster.commands.terminal import notes, results, told_progress
from silverray.cluster.commands.train import describe, train_with_progress
from silverray.cluster.config import HttpConfig, ServeConfig
from silverray.cluster.demo import movielens
from silverray.cluster.demo.movielens import LIKED, Film, MovieLens, Rater
from silverray.cluster.demo.movielens_requests import HELD_OUT, split_time, write_requests
from silverray.cluster.loadtest.loadtest import LoadPlan
from silverray.cluster.serving.records import ServiceRecord, hold_record
from silverray.cluster.serving.service import Service, start
from silverray.cluster.signals import stopped_by_signals
from silverray.cluster.training.config import TrainConfig
from silverray.cluster.training.run import MODEL_FOLDER, VECTORS_FILE
from silverray.router.http.client import SearchClient
from silverray.shard.publish.builder import publish
from silverray.shard.schema.schema import Schema

NAME = "silverray-demo"
KEPT_FOLDER = Path("silverray-demo")
SHARDS = 2
"""The fewest whose answers are merged; a laptop has cores for no more."""
LOAD_RATE = 100.0
"""Far below what two cores serve: the demo shows latency, not overload, on a laptop too."""
LOAD_S = 10.0
"""A thousand requests: ten lie beyond the p99."""
WARM_UP_S = 3.0
"""First requests compile filters and open connections; the three questions are all asked by then."""
MAX_ERRORS = 0.05
"""Share of the load's requests that may fail before the demo does: a busy machine loses some."""
QUESTIONS = (
    None,
    'genres any ("Comedy") and year >= 1990',
    'not genres any ("Drama") and rating_count between 20 and 200',
)

_USERS = 3
"""With three questions each, what fits two screens."""
_SHOWN = 5
"""Films of an answer; more would push the next answer off the screen."""
_LIKED_SHOWN = 6
"""The latest ones, enough to see a taste by, in two lines."""
_MIN_LIKES = 20
"""Twice the history that the tower reads: with fewer, its answers are hardly more than what is popular."""
_DEADLINE_MS = 5_000
"""Nothing is measured here, and the first search of each kind on a busy machine takes longest."""
_LOAD_DEADLINE_MS = 1_000
"""Router, shards, encoder and the load share a laptop's cores: the default of 100 ms would fail requests of a good
service."""
_FIELDS = ["title", "year", "genres", "rating_count"]
_SCHEMA_FILE = "movielens-schema.yaml"
_TRAIN_FILE = "movielens-train.yaml"
_CONFIG_FILE = "serve.yaml"


@dataclass(frozen=True, slots=True)
class Asker:
    """A rater as the demo asks for them.

    Attributes:
        rater: who.
        liked: ids of the films that they liked in the training part, oldest first.
        rated: ids of all films that they rated there.
        later: ids of the films that they liked after it; the model has never seen these likes.
    """

    rater: Rater
    liked: list[int]
    rated: set[int]
    later: set[int]

    @property
    def features(self) -> dict[str, Any]:
        """The user features of a search body."""
        rater = self.rater
        return {"history": self.liked, "age": rater.age, "gender": rater.gender, "occupation": rater.occupation}


def run_demo(keep: bool = False) -> None:
    """Tell the whole story: data, training, publishing, serving, searching, load; then stop what was started.

    Args:
        keep: leave the service up until Ctrl-C, and its files in `KEPT_FOLDER`.

    Raises:
        MovieLensError: the data cannot be had.
        ServiceError: the service did not come up.
        SearchError: a question was not answered.
        LoadFailed: more than `MAX_ERRORS` of the load were not answered.
    """
    failure = None
    with ExitStack() as stack:
        stack.enter_context(stopped_by_signals())
        holder = stack.enter_context(hold_record(NAME))
        folder = KEPT_FOLDER if keep else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="silverray-")))
        data = _get_data()
        config = _train(data, folder)
        _publish(config, folder)
        service = stack.enter_context(_serve(folder))
        askers = _askers(data)
        _ask_all(service.url, data, askers)
        try:
            _load(service.url, askers)
        except LoadFailed as error:
            results.print(str(error), style="red", markup=False)
            failure = error
        if keep:
            holder.write(
                ServiceRecord(name=NAME, url=service.url, address=None, pid=os.getpid(), ends_serve=True),
            )
            _wait(service.url, folder)
        notes.print("stopping")
    _say_what_next(keep)
    if failure is not None:
        raise failure


def _get_data() -> MovieLens:
    _headline("1. Data")
    results.print(movielens.TERMS, style="dim")
    with notes.status("fetching MovieLens 100K"):
        data = movielens.load(movielens.fetch())
    results.print(f"{len(data.times):,} ratings of {len(data.films):,} films by {len(data.raters):,} people")
    return data


def _train(data: MovieLens, folder: Path) -> TrainConfig:
    _headline("2. Train a two-tower model by request")
    results.print(
        f"Ratings of {LIKED} and 5 are likes; the last {HELD_OUT:.0%} of them are held out, and what was rated since. "
        "What somebody rates within a minute is a request."
    )
    write_requests(data, folder, held_out=HELD_OUT)
    config = TrainConfig.load(Path(str(files("silverray.configs") / _TRAIN_FILE)), folder=folder.resolve())
    for line in describe(train_with_progress(config), config):
        results.print(line)
    return config


def _publish(config: TrainConfig, folder: Path) -> None:
    _headline("3. Publish")
    schema = Schema.parse((files("silverray.configs") / _SCHEMA_FILE).read_text(encoding="utf-8"), _SCHEMA_FILE)
    started = time.perf_counter()
    catalog = publish(
        read_items(config.items.file, schema, with_vectors=False),
        schema,
        folder / "snapshots",
        vectors=np.load(config.out / VECTORS_FILE),
        model=config.out / MODEL_FOLDER,
    )
    results.print(
        f"{catalog.items:,} films with {', '.join(schema.fields)}: {catalog.dimension} dimensions, "
        f"{catalog.clusters} clusters, {catalog.partitions} partitions; {time.perf_counter() - started:.1f} s"
    )


@contextmanager
def _serve(folder: Path) -> Iterator[Service]:
    _headline(f"4. Serve {SHARDS} shards on a Ray cluster")
    file = folder / _CONFIG_FILE
    file.write_text(f"# silverray serve {file}\nsnapshots: snapshots\nshards: {SHARDS}\n", encoding="utf-8")
    config = ServeConfig.load(file, name=NAME, http=HttpConfig(port=0))
    started = time.perf_counter()
    with told_progress("starting") as tell:
        service = start(config, progress=tell)
    with service:
        results.print(f"ready {service.url} after {time.perf_counter() - started:.0f} s", highlight=False)
        yield service


def _askers(data: MovieLens) -> list[Asker]:
    """Everyone with some likes in the training part; those with the most held-out likes come first."""
    liked = data.ratings >= LIKED
    early = data.times < split_time(data, HELD_OUT)
    askers = []
    for rater in data.raters:
        own = data.rater_ids == rater.id
        asker = Asker(
            rater,
            liked=data.film_ids[own & liked & early].tolist(),
            rated=set(data.film_ids[own & early].tolist()),
            later=set(data.film_ids[own & liked & ~early].tolist()),
        )
        if len(asker.liked) >= _MIN_LIKES:
            askers.append(asker)
    return sorted(askers, key=lambda asker: -len(asker.later))


def _ask_all(url: str, data: MovieLens, askers: Sequence[Asker]) -> None:
    _headline("5. Ask over HTTP")
    client = SearchClient(url)
    films = {film.id: film for film in data.films}
    results.print("Films already rated are left out. ✓ marks what the person liked later, unseen in training.")
    for asker in askers[:_USERS]:
        rater = asker.rater
        results.print(f"\n[bold]User {rater.id}[/]: {rater.age}, {rater.gender}, {rater.occupation}. Liked lately:")
        results.print("  " + "; ".join(_describe(films[film]) for film in asker.liked[-_LIKED_SHOWN:]), highlight=False)
        for question in QUESTIONS:
            reply = client.search({**_body(asker, question, _SHOWN + len(asker.rated)), "deadline_ms": _DEADLINE_MS})
            results.print(_answer_table(question, reply["items"], asker))


def _body(asker: Asker, question: str | None, k: int) -> dict[str, Any]:
    return {"user": asker.features, "filter": question, "k": k, "fields": _FIELDS}


def _answer_table(question: str | None, items: Sequence[Mapping[str, Any]], asker: Asker) -> Table:
    table = Table(title=question or "without a filter", title_justify="left", title_style="cyan", box=SIMPLE_HEAD)
    table.add_column("title")
    table.add_column("year", no_wrap=True)
    table.add_column("genres")
    table.add_column("ratings", justify="right", no_wrap=True)
    table.add_column("score", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True, min_width=1)
    for item in [item for item in items if item["id"] not in asker.rated][:_SHOWN]:
        fields = item["fields"]
        table.add_row(
            fields["title"],
            str(fields["year"] or "?"),
            ", ".join(fields["genres"]),
            str(fields["rating_count"]),
            f"{item['score']:.3f}",
            "✓" if item["id"] in asker.later else "",
        )
    return table


def _describe(film: Film) -> str:
    return f"{film.title} ({film.year or '?'})"


def _load(url: str, askers: Sequence[Asker]) -> None:
    _headline(f"6. Load it for {LOAD_S:.0f} s, {LOAD_RATE:.0f} requests a second")
    asked = [_body(asker, question, 10) for asker in askers for question in QUESTIONS]
    bodies = [orjson.dumps({**body, "deadline_ms": _LOAD_DEADLINE_MS}) for body in asked]
    random.Random(0).shuffle(bodies)
    plan = LoadPlan(url=url, bodies=bodies, rate=LOAD_RATE, duration_s=LOAD_S)
    measure(replace(plan, duration_s=WARM_UP_S, seed=1))  # first requests compile filters and open connections
    run_loadtest(plan, None, as_json=False, max_errors=MAX_ERRORS)


def _wait(url: str, folder: Path) -> None:
    results.print(f"\nserving on {url} until Ctrl-C; its files are in {folder}. In another terminal:", highlight=False)
    results.print(
        f'  {_program()} search --url {url} --user \'{{"history": [50, 181], "age": 30}}\' --fields title,year',
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    try:
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        pass


def _say_what_next(kept: bool) -> None:
    results.print("\nEverything that was started has been stopped. Next:")
    first = (
        (f"serve {KEPT_FOLDER / _CONFIG_FILE}", "to serve it again")
        if kept
        else ("demo --keep", "leaves it serving, to ask it yourself")
    )
    steps = [first, ("publish --help", "your own items"), ("serve --help", "your own cluster")]
    for arguments, meaning in steps:
        results.print(f"  {_program()} {arguments:<33}{meaning}", highlight=False, soft_wrap=True)


def _program() -> str:
    """How to call the command from here: it may lie in a virtual environment that is not activated."""
    if shutil.which("silverray"):
        return "silverray"
    program = Path(sys.executable).with_name("silverray")
    return str(program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program)


def _headline(text: str) -> None:
    results.print(f"\n[bold]{text}[/]")
