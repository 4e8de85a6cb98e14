"""The `silverray` command. Commands import what they need when they run, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from silverray.cluster.commands.terminal import one_line_errors, parse_duration

app = typer.Typer(
    name="silverray",
    help="A sharded retrieval cluster: publish item vectors, serve them on Ray, search them over HTTP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Address = Annotated[str | None, typer.Option(help="Address of a running Ray cluster.")]
Url = Annotated[str, typer.Option(help="Where the service answers.")]
Snapshot = Annotated[Path, typer.Argument(help="Directory of a published version.")]


@app.command()
def publish(
    items: Annotated[
        Path, typer.Argument(help="Parquet file, or folder, with the id, the fields and, maybe, a vector column.")
    ],
    schema: Annotated[Path, typer.Option(help="YAML file: id column, vector, fields.")],
    out: Annotated[Path, typer.Option(help="Snapshot store; the version becomes a folder in it.")],
    vectors: Annotated[Path | None, typer.Option(help="NumPy file [N, D] float32, in row order.")] = None,
    model: Annotated[Path | None, typer.Option(help="Directory of a trained user tower.")] = None,
    partitions: Annotated[int, typer.Option(help="Parts that can be spread over shards.")] = 64,
    clusters: Annotated[int | None, typer.Option(help="Number of k-means clusters.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the build.")] = 0,
    version: Annotated[str | None, typer.Option(help="Name of the version; the time by default.")] = None,
    as_of: Annotated[
        int | None, typer.Option(min=0, metavar="SEQ", help="Number of the last live write that the items include.")
    ] = None,
    from_live: Annotated[bool, typer.Option("--from-live", help="Fold in the live writes since.")] = False,
    log: Annotated[Path | None, typer.Option(help="The log's file, if no longer where the store says.")] = None,
    space: Annotated[
        str | None, typer.Option(help="Name of the vectors' space; by default the model's, or the version's name.")
    ] = None,
    cache: Annotated[Literal["fp32", "bf16"], typer.Option(help="Type in which item vectors are kept.")] = "fp32",
    json: Json = False,
) -> None:
    """Build an index over items and publish it as a snapshot.

    With --as-of or --from-live the version goes on with the store's log, and without --model or --space in the vector
    space of the newest version. With --from-live alone the items are those that the newest version was published from.
    """
    with one_line_errors():
        from silverray.cluster.commands.publish import Publication, run_publish

        publication = Publication(
            items, schema, out, vectors, model, partitions, clusters, seed, version, as_of, from_live, log, space, cache
        )
        run_publish(publication, as_json=json)


@app.command()
def convert(
    impressions: Annotated[
        Path, typer.Argument(help="Parquet file or folder, a row per impression, in the order of time.")
    ],
    features: Annotated[Path, typer.Option(help="YAML file: tasks, and what is known of users.")],
    out: Annotated[Path, typer.Option(help="Parquet file to write, with a row per request.")],
    span: Annotated[
        float, typer.Option(parser=parse_duration, help="Longest time from a request's first impression to its last.")
    ] = "30m",  # type: ignore[assignment]
    json: Json = False,
) -> None:
    """Gather impressions into requests, the rows that towers are trained on.

    By the column `request`; without one, what a user saw within a span is a request.
    """
    with one_line_errors():
        from silverray.cluster.commands.convert import run_convert

        run_convert(impressions, features, out, span, as_json=json)


@app.command()
def serve(
    config: Annotated[Path, typer.Argument(help="YAML file; see configs/.")],
    shards: Annotated[int | None, typer.Option(min=1, help="Number of shards, instead of the file's.")] = None,
    replicas: Annotated[int | None, typer.Option(min=1, help="Processes per shard, instead of the file's.")] = None,
    address: Address = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once it answers and leave it running.")] = False,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Use a Ray cluster that asks for no tokens."),
    ] = False,
    timeout: Annotated[
        float | None,
        typer.Option(parser=parse_duration, help="How long it may take to answer; by default while anything moves."),
    ] = None,
) -> None:
    """Serve a snapshot until Ctrl-C; prints `ready URL` when it answers.

    Without --address a Ray cluster is started on this machine, and ends with the service. Where a service of this name
    runs, it is changed: the new version is checked first, and if it does not come up, or on Ctrl-C, what served before
    is put back. Only the `serve` that started a service ends it; one that changed it returns once it answers.
    """
    with one_line_errors():
        from silverray.cluster.commands.serve import run_serve

        run_serve(
            config,
            shards=shards,
            replicas=replicas,
            address=address,
            detach=detach,
            insecure=insecure,
            timeout_s=timeout,
        )


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def search(
    more: typer.Context,
    url: Url = "http://127.0.0.1:8000",
    vector: Annotated[Path | None, typer.Option(help="NumPy file with a query: [D], or [T, D] for tasks.")] = None,
    user: Annotated[str | None, typer.Option(help="User features as JSON.")] = None,
    filter: Annotated[str | None, typer.Option(help="Which items may be found.")] = None,
    k: Annotated[int, typer.Option("-k", help="Number of items.")] = 10,
    fields: Annotated[str, typer.Option(help="Fields to show, separated by commas.")] = "",
    n_probe: Annotated[int | None, typer.Option(help="Clusters to scan; planned by default.")] = None,
    deadline_ms: Annotated[
        float | None, typer.Option(help="Deadline in milliseconds; a person waits longer than a service.")
    ] = 2_000.0,
    diversify: Annotated[float | None, typer.Option(help="Strength at which the list is diversified.")] = None,
    variant: Annotated[str | None, typer.Option(help="Name of the formula that values the items.")] = None,
    context: Annotated[str | None, typer.Option(help="What formulas read of the request, as JSON.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say how the answer was found.")] = False,
    json: Json = False,
) -> None:
    """Ask a running service.

    Every other key of a query (URL/docs has them all) is an option of its name too, such as --mode bloom.
    """
    with one_line_errors():
        from silverray.cluster.commands.search import make_body, named, run_search

        body = named(more.args) | make_body(
            vector, user, filter, k, fields, n_probe, deadline_ms, diversify, variant, context, explain=explain
        )
        run_search(url, body, as_json=json)


@app.command()
def loadtest(
    queries: Annotated[Path, typer.Option(help="JSON lines of search bodies.")],
    url: Url = "http://127.0.0.1:8000",
    rate: Annotated[float, typer.Option(min=0.01, help="Mean requests per second.")] = 500.0,
    duration: Annotated[float, typer.Option(parser=parse_duration, help="How long, such as 30s or 2m.")] = "30s",  # type: ignore[assignment]
    truth: Annotated[Path | None, typer.Option(help="JSON lines of true answers, to measure recall.")] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for report.json and latency.png.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the arrival times.")] = 0,
    max_in_flight: Annotated[int, typer.Option(min=1, help="Most unanswered requests.")] = 2_000,
    max_errors: Annotated[
        float, typer.Option(min=0, max=1, help="Share of errors above which it fails; without replies it always does.")
    ] = 1.0,
    min_recall: Annotated[float | None, typer.Option(min=0, max=1, help="Recall below which it fails.")] = None,
    json: Json = False,
) -> None:
    """Load a service at Poisson times; latency counts from when a request should have left.

    Ends with exit code 1 where it fails.
    """
    with one_line_errors():
        from silverray.cluster.commands.loadtest import load, run_loadtest

        plan = load(queries, truth, url=url, rate=rate, duration_s=duration, seed=seed, max_in_flight=max_in_flight)
        run_loadtest(plan, report, as_json=json, max_errors=max_errors, min_recall=min_recall)


@app.command()
def status(
    url: Annotated[str | None, typer.Option(help="Ask this service instead of those started from here.")] = None,
    json: Json = False,
) -> None:
    """Say which services run and how they do."""
    with one_line_errors():
        from silverray.cluster.commands.status import run_status

        run_status(url, as_json=json)


@app.command()
def stop(
    name: Annotated[str | None, typer.Argument(help="The service; not needed when there is only one.")] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster of a service that was not started from here.")
    ] = None,
) -> None:
    """Stop a service, and the Ray cluster if it was started for it."""
    with one_line_errors():
        from silverray.cluster.commands.stop import run_stop

        run_stop(name, address)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file; see configs/movielens-train.yaml.")],
    workers: Annotated[int | None, typer.Option(min=1, help="Processes, instead of the file's.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    address: Address = None,
    json: Json = False,
) -> None:
    """Train user and item towers on requests; writes a model and item vectors to publish.

    Needs TorchRec. With several workers, or --address, it runs on Ray.
    """
    with one_line_errors():
        from silverray.cluster.commands.train import run_train

        run_train(config, workers=workers, resume=resume, address=address, as_json=json)


@app.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave it serving until Ctrl-C.")] = False,
) -> None:
    """MovieLens end to end: train, publish, serve, search and load, then stop everything."""
    with one_line_errors():
        from silverray.cluster.demo.demo import run_demo

        run_demo(keep)


@app.command()
def verify(snapshot: Snapshot) -> None:
    """Check every file of a snapshot against its manifest."""
    with one_line_errors():
        from silverray.cluster.commands.snapshots import run_verify

        run_verify(snapshot)


@app.command()
def export(
    snapshot: Snapshot,
    out: Annotated[Path, typer.Option(help="File to write, such as model.pt2.")],
    k: Annotated[int, typer.Option("-k", min=1, max=10_000, help="Number of items of an answer.")] = 100,
    n_probe: Annotated[int | None, typer.Option(min=1, help="Clusters to visit; planned by default.")] = None,
    partitions: Annotated[str | None, typer.Option(help="Such as 0-31 or 0,5,7; all by default.")] = None,
    device: Annotated[str, typer.Option(help="Where it will run: cpu or cuda.")] = "cpu",
    json: Json = False,
) -> None:
    """Write the retrieval model and its items as one file that PyTorch loads."""
    with one_line_errors():
        from silverray.cluster.commands.export import parse_partitions, run_export

        run_export(snapshot, out, k, n_probe, parse_partitions(partitions), device, as_json=json)


@app.command()
def inspect(snapshot: Snapshot, json: Json = False) -> None:
    """Say what a snapshot holds."""
    with one_line_errors():
        from silverray.cluster.commands.snapshots import run_inspect

        run_inspect(snapshot, as_json=json)


@app.command()
def bench(
    name: Annotated[
        str,
        typer.Argument(
            help="scan, filter, build, http, overload, glove, roo, tables, value, diversity, ranking or live."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for NAME.json, NAME.md and NAME.png.")] = Path("benchmarks/results"),
    work: Annotated[Path, typer.Option(help="Folder that keeps data and indexes between runs.")] = Path("data/bench"),
    quick: Annotated[bool, typer.Option("--quick", help="Little data, to see that it works; never to quote.")] = False,
    peers: Annotated[str | None, typer.Option(help="scan only: what to compare with, separated by commas.")] = None,
    data: Annotated[str | None, typer.Option(help="scan only: clustered, glove or both.")] = None,
) -> None:
    """Measure on this machine, side by side with what one would use instead.

    Needs `pip install 'silverray[bench]'`.
    """
    with one_line_errors():
        from silverray.cluster.commands.bench import run_bench

        run_bench(name, out, work, quick=quick, peers=peers, data=data)


if __name__ == "__main__":
    app()
