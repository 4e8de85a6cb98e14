"""`silverray publish`."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.progress import TaskID

from silverray.cluster.commands.item_files import read_items, read_vectors
from silverray.cluster.commands.memory import describe_memory, memory_tables
from silverray.cluster.commands.terminal import notes, print_json, progress_bar, results
from silverray.cluster.log.folding import fold_log
from silverray.cluster.signals import stopped_by_signals
from silverray.shard.live.fold import Folded
from silverray.shard.publish.builder import publish, read_model
from silverray.shard.schema.schema import Schema
from silverray.shard.snapshot.catalog import CacheType
from silverray.shard.snapshot.files import SnapshotFiles, published, version_folder


@dataclass(frozen=True, slots=True)
class Publication:
    """What to publish; see `silverray.shard.publish.builder.publish`.

    Attributes:
        as_of: number of the last write that `items` includes; None for none, or, with `from_live`, for as many as the
            items of the newest version.
        from_live: whether the writes since are folded in.
        log: where they are, if no longer where the store says.
    """

    items: Path
    schema: Path
    out: Path
    vectors: Path | None
    model: Path | None
    partitions: int
    clusters: int | None
    seed: int
    version: str | None
    as_of: int | None
    from_live: bool
    log: Path | None
    space: str | None
    cache: CacheType


class _Input(NamedTuple):
    """Rows to publish, and where they stand in the log."""

    items: pa.Table
    vectors: NDArray[np.float32] | None
    seq: int
    items_seq: int
    space: str | None
    folded: Folded | None = None


def run_publish(publication: Publication, *, as_json: bool) -> None:
    """Publish with a progress bar and say what was made, how long it took and the memory it needed.

    SIGTERM ends it like Ctrl-C, and nothing is left behind.
    """
    with stopped_by_signals():
        _run(publication, as_json=as_json)


def _run(publication: Publication, *, as_json: bool) -> None:
    schema = Schema.load(publication.schema)
    table = read_items(publication.items, schema, with_vectors=publication.vectors is None)
    vectors = None if publication.vectors is None else read_vectors(publication.vectors)
    given = _follow_on(publication, table, schema, vectors)
    del table, vectors
    started = time.perf_counter()
    with progress_bar() as bar:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        catalog = publish(
            given.items,
            schema,
            publication.out,
            vectors=given.vectors,
            model=publication.model,
            partitions=publication.partitions,
            clusters=publication.clusters,
            seed=publication.seed,
            version=publication.version,
            seq=given.seq,
            items_seq=given.items_seq,
            space=given.space,
            cache=publication.cache,
            progress=show,
        )
    seconds = time.perf_counter() - started
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    memory = describe_memory(SnapshotFiles.open(catalog.path), catalog)
    if as_json:
        print_json(
            {
                "path": str(catalog.path),
                "version": catalog.version,
                "items": catalog.items,
                "partitions": catalog.partitions,
                "seq": catalog.seq,
                "folded": given.folded and {**given.folded.outcome._asdict(), "refusal": given.folded.refusal},
                "seconds": round(seconds, 2),
                "peak_memory_mib": round(peak_mib),
                "memory": memory,
            }
        )
        return
    if given.folded:
        _tell(given, given.folded)
    notes.print(f"{catalog.items:,} items in {seconds:.1f} s, at most {peak_mib:,.0f} MiB of memory")
    notes.print(*memory_tables(memory))
    results.print(f"published {catalog.path}", highlight=False, soft_wrap=True)


def _follow_on(
    publication: Publication, items: pa.Table, schema: Schema, vectors: NDArray[np.float32] | None
) -> _Input:
    """Find where rows stand in the log, and fold in what came since if that is asked for.

    What goes on with a log keeps to the vector space of the newest version: its writes name it.
    """
    after, store, space = publication.as_of, publication.out, publication.space
    if not publication.from_live:
        if publication.log:
            raise ValueError("--log: expected with --from-live only")
        if after is not None and publication.model is None and published(store):
            space = space or _newest_manifest(store)["vector_space"]
        return _Input(items, vectors, after or 0, after or 0, space)
    newest = _newest_manifest(store)
    if after is None:
        after = newest["build"].get("items_seq", newest["seq"])
    if space is None:
        of = newest if publication.model is None else read_model(publication.model, schema)
        space = of["vector_space"]
    folded, seq = fold_log(store, publication.log, after, items, schema, vectors, space)
    return _Input(folded.items, folded.vectors, seq, after, space, folded)


def _newest_manifest(store: Path) -> dict[str, Any]:
    return SnapshotFiles.open(version_folder(store)).manifest


def _tell(given: _Input, folded: Folded) -> None:
    did = ", ".join(
        f"{count:,} {effect.replace('_', ' ')}" for effect, count in folded.outcome._asdict().items() if count
    )
    notes.print(f"live writes {given.items_seq + 1:,} to {given.seq:,}: {did or 'none'}", highlight=False)
    if folded.refusal:
        notes.print(f"warning: writes were left out, such as {folded.refusal}", style="yellow", markup=False)
