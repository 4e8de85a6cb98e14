"""`silverray verify` and `silverray inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from silverray.cluster.commands.memory import describe_memory, memory_tables
from silverray.cluster.commands.terminal import plain, print_json, progress_bar, results
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.snapshot.files import SnapshotFiles


def run_verify(snapshot: Path) -> None:
    """Check every file and say so; the first bad one is a `SnapshotError` that names it."""
    files = SnapshotFiles.open(snapshot)
    total = len(files.manifest["files"])
    with progress_bar() as bar:
        task = bar.add_task("verify", total=total)
        for _ in files.verify():
            bar.advance(task)
    results.print(f"{snapshot}: {total} files are whole", highlight=False, soft_wrap=True)


def run_inspect(snapshot: Path, *, as_json: bool) -> None:
    """Print what a snapshot holds."""
    files = SnapshotFiles.open(snapshot)
    catalog = Catalog.of(files)
    document, memory = _describe(catalog), describe_memory(files, catalog)
    if as_json:
        print_json({**document, "memory": memory})
        return
    table = Table(title=plain(snapshot), show_header=False, title_justify="left")
    for key, value in document.items():
        if key != "fields":
            table.add_row(key.replace("_", " "), plain(value))
    for name, field in document["fields"].items():
        marks = [field["type"], *(mark for mark in ("nullable", "filter", "payload") if field[mark])]
        table.add_row(f"field {name}", ", ".join(marks))
    results.print(table, *memory_tables(memory))


def _describe(catalog: Catalog) -> dict[str, Any]:
    return {
        "version": catalog.version,
        "seq": catalog.seq,
        "items": catalog.items,
        "partitions": catalog.partitions,
        "clusters": catalog.clusters,
        "smallest_partition": min(catalog.partition_items),
        "largest_partition": max(catalog.partition_items),
        "id_type": catalog.id_type,
        "dimension": catalog.dimension,
        "metric": catalog.metric,
        "cache": catalog.cache,
        "tasks": list(catalog.tasks),
        "user_tower": catalog.has_user_tower,
        "fields": {name: field.model_dump() for name, field in catalog.schema.fields.items()},
    }
