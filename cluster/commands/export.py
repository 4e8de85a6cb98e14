"""`silverray export`."""

from __future__ import annotations

from pathlib import Path

from silverray.cluster.commands.terminal import notes, print_json, results
from silverray.shard.engine.engine import Engine
from silverray.shard.model.export import describe, export_model, save_exported


def parse_partitions(text: str | None) -> list[int] | None:
    """Read `0-31` or `0,5,7`; None is None.

    Raises:
        ValueError: it is neither.
    """
    if text is None:
        return None
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if not (first.strip().isdecimal() and last.strip().isdecimal()):
            raise ValueError(f"--partitions: expected numbers and ranges such as 0-31 or 0,5,7, got {text!r}")
        numbers += range(int(first), int(last) + 1)
    if len(set(numbers)) < len(numbers) or not numbers:
        raise ValueError(f"--partitions: expected each partition once, got {text!r}")
    return numbers


def run_export(
    snapshot: Path,
    out: Path,
    k: int,
    n_probe: int | None,
    partitions: list[int] | None,
    device: str,
    *,
    as_json: bool,
) -> None:
    """Write the model of some partitions, and say what was written.

    Raises:
        SnapshotError: the snapshot is damaged or has no such partition.
        OSError: the file cannot be written.
    """
    engine = Engine.open(snapshot, partitions, device=device)
    chosen = list(range(engine.catalog.partitions)) if partitions is None else partitions
    if engine.set_ranker is not None:
        notes.print(
            f"left out: {engine.scorer}, which needs the list of all partitions; the file ranks by inner products"
        )
    info = describe(engine.catalog, chosen, k, n_probe, ranked=engine.model.ranks)
    save_exported(export_model(engine.model, k, n_probe), out, info)
    if as_json:
        print_json({"path": str(out), "bytes": out.stat().st_size, **info})
        return
    results.print(f"exported {info['items']:,} items to {out}", highlight=False, soft_wrap=True)
