"""`silverray publish`."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.progress import TaskID

from silverray.cluster.commands.memory import describe_memory, memory_tables
from silverray.cluster.terminal import notes, print_json, progress_bar, results
from silverray.shard.filter.schema import Schema
from silverray.shard.index.builder import publish
from silverray.shard.index.snapshot import SnapshotFiles


@dataclass(frozen=True, slots=True)
class Publication:
    """What to publish; see `silverray.shard.index.builder.publish`."""

    items: Path
    schema: Path
    out: Path
    vectors: Path | None
    model: Path | None
    partitions: int
    clusters: int | None
    seed: int
    version: str | None


def run_publish(publication: Publication, *, as_json: bool) -> None:
    """Publish with a progress bar and say what was made, how long it took and the memory it needed."""
    schema = Schema.load(publication.schema)
    try:
        table = pq.read_table(publication.items)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{publication.items}: not a readable Parquet file: {error}") from None
    vectors = None if publication.vectors is None else _read_vectors(publication.vectors)
    started = time.perf_counter()
    with progress_bar() as bar:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        catalog = publish(
            table,
            schema,
            publication.out,
            vectors=vectors,
            model=publication.model,
            partitions=publication.partitions,
            clusters=publication.clusters,
            seed=publication.seed,
            version=publication.version,
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
                "seconds": round(seconds, 2),
                "peak_memory_mib": round(peak_mib),
                "memory": memory,
            }
        )
        return
    notes.print(f"{catalog.items:,} items in {seconds:.1f} s, at most {peak_mib:,.0f} MiB of memory")
    notes.print(*memory_tables(memory))
    results.print(f"published {catalog.path}", highlight=False, soft_wrap=True)


def _read_vectors(file: Path) -> np.ndarray:
    try:
        vectors: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: not a readable NumPy file: {error}") from None
    return vectors
