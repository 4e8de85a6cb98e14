"""`silverray convert`."""

from __future__ import annotations

import time
from pathlib import Path

from silverray.cluster.commands.terminal import notes, print_json, progress_bar, results
from silverray.shard.parquet.paths import parquet_files
from silverray.shard.train.convert import convert
from silverray.shard.train.format import RequestFormat


def run_convert(impressions: Path, features: Path, out: Path, span_s: float, *, as_json: bool) -> None:
    """Convert with a progress bar, and say what it made of how much."""
    if span_s != int(span_s):
        raise ValueError(f"span: expected whole seconds, got {span_s} s")
    format = RequestFormat.load(features)
    before = sum(file.stat().st_size for file in parquet_files(impressions))
    started = time.perf_counter()
    with progress_bar() as bar:
        task = bar.add_task("impressions", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        done = convert(impressions, format, out, span_s=int(span_s), progress=show)
    seconds = time.perf_counter() - started
    after = out.stat().st_size
    if as_json:
        print_json({"path": str(out), **done._asdict(), "bytes": after, "seconds": round(seconds, 2)})
        return
    notes.print(
        f"{done.impressions:,} impressions became {done.requests:,} requests in {seconds:.1f} s, "
        f"{before / 1e6:,.1f} MB became {after / 1e6:,.1f} MB",
        highlight=False,
    )
    results.print(f"converted {out}", highlight=False, soft_wrap=True)
