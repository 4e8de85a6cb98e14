"""The Triton kernels on a GPU, checked and timed: `python benchmarks/gpu/gpu.py --out benchmarks/results`.

It needs torch, triton, numpy and numba, and runs from a checkout that is not installed. Each section is a process of
its own with a time limit: one that fails or hangs costs the others nothing. The report is written after every section.
`--quick` runs everything on little data in this process, in Triton's interpreter where there is no GPU.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("kernels", "shard", "router", "cluster", "configs", "benchmarks")
TITLE = "The kernels on a GPU"
COMMAND = "python benchmarks/gpu/gpu.py --out benchmarks/results"
TOTAL_S = 460.0
"""Under eight minutes, as GPUs are lent by minutes. The sections' own limits are 485 s together, which they rarely
take."""
LATEST_END_S = 15.0
"""Seconds that a section may take to end after its time is up, before it is killed."""
SECTIONS_TABLE = "Sections"
SECTIONS_COLUMNS = {
    "section": "{section}",
    "rows": "{rows}",
    "seconds": "{seconds:.0f}",
    "limit": "{limit:.0f}",
    "outcome": "{outcome}",
}


class Section(NamedTuple):
    """A part of the benchmark: what yields its rows (`module.function`), and for how many seconds it may."""

    run: str
    seconds: float


SECTIONS = {
    "bandwidth": Section("figures.bandwidth", 25),
    "edges": Section("checks.edges", 50),
    "headline": Section("figures.headline", 45),
    "checks 3M": Section("checks.at_middle", 45),
    "scan": Section("figures.scan", 45),
    "filters": Section("figures.planes", 30),
    "peers": Section("peers.peers", 50),
    "retrieve": Section("figures.retrieve", 45),
    "model": Section("model.model", 40),
    "checks 20M": Section("checks.at_largest", 50),
    "selection": Section("figures.selection", 30),
    "checks 1M": Section("checks.at_smallest", 30),
}
"""In order of importance: should the time not suffice, the last ones lack."""


def import_here() -> None:
    """Make `silverray` importable from this checkout; where its links were lost, by links in a temporary folder."""
    links = ROOT / ".typing"
    if not (links / "silverray" / "kernels" / "gpu" / "launch.py").is_file():
        links = Path(tempfile.mkdtemp(prefix="silverray-links-"))
        atexit.register(shutil.rmtree, links, ignore_errors=True)
        (links / "silverray").mkdir()
        (links / "silverray" / "__init__.py").touch()  # a regular package that is installed would win otherwise
        for name in FOLDERS:
            (links / "silverray" / name).symlink_to(ROOT / name)
    # An editable install of another checkout would come first by its import hook.
    sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in repr(finder)]
    sys.path.insert(0, str(links))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(links), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)


def main() -> None:
    """Run the sections that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for gpu.json and gpu.md")
    parser.add_argument("--quick", action="store_true", help="little data: to see that it works")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="run these sections")
    parser.add_argument("--isolate", action="store_true", help="a process for each section, with --quick too")
    parser.add_argument("--seconds", type=float, default=TOTAL_S, help="for all sections together")
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    import_here()
    import torch

    if not torch.cuda.is_available():
        if not given.quick:
            sys.exit("error: there is no GPU; --quick runs in Triton's interpreter")
        # Read when a kernel is defined.
        os.environ["TRITON_INTERPRET"] = "1"
    if given.part:
        (name,) = given.only
        with given.part.open("w", encoding="utf-8") as file:
            for record in run_section(name, given.quick, given.seconds):
                file.write(json.dumps(record, default=str) + "\n")
                file.flush()
        return
    Benchmark(given.out, quick=given.quick, isolate=given.isolate or not given.quick).run(given.only, given.seconds)


def run_section(name: str, quick: bool, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield the rows of a section, each with its table, and at last how it ended; looks at the clock between rows."""
    began, outcome, error = time.monotonic(), "complete", None
    try:
        from silverray.benchmarks.gpu.scale import FULL, QUICK

        module, function = SECTIONS[name].run.split(".")
        rows: Callable[..., Iterator[tuple[str, dict[str, Any]]]]
        rows = getattr(import_module(f"silverray.benchmarks.gpu.{module}"), function)
        gc.freeze()  # each capture of a graph collects garbage: the modules that were loaded need no look
        for table, row in rows(QUICK if quick else FULL):
            yield {"table": table, "row": row}
            if time.monotonic() - began > seconds:
                outcome = "out of time"
                break
    except Exception as problem:
        outcome, error = f"failed: {problem}"[:200], traceback.format_exc()
    yield {"outcome": outcome, "error": error}


class Benchmark:
    """Runs sections one after another and writes the report after each.

    Args:
        out: where `gpu.json` and `gpu.md` go.
        quick: on little data.
        isolate: each section in a process of its own.
    """

    def __init__(self, out: Path, *, quick: bool, isolate: bool) -> None:
        self.out = out
        self.quick = quick
        self.isolate = isolate
        self._facts = _gpu_facts()
        self._tables: dict[str, list[dict[str, Any]]] = {SECTIONS_TABLE: []}

    def run(self, names: list[str], seconds: float) -> None:
        """Run sections for so many seconds in all, and print the report."""
        began = time.monotonic()
        for name in names:
            left = seconds - (time.monotonic() - began)
            # On little data no section is worth cutting; what it takes there says more of the machine's other work.
            self._run(name, left if self.quick else min(left, SECTIONS[name].seconds))
            self._write(time.monotonic() - began)
        print(self._summary())

    def _run(self, name: str, limit: float) -> None:
        began, rows, outcome, error = time.monotonic(), 0, "no time left", None
        for record in self._records(name, limit) if limit > 0 else ():
            if "row" in record:
                rows += 1
                self._tables.setdefault(record["table"], []).append({"section": name, **record["row"]})
            else:
                outcome, error = record["outcome"], record["error"]
        taken = time.monotonic() - began
        print(f"{name}: {rows} rows in {taken:.1f} s, {outcome}", file=sys.stderr, flush=True)
        row = {"section": name, "rows": rows, "seconds": taken, "limit": limit, "outcome": outcome, "error": error}
        self._tables[SECTIONS_TABLE].append(row)

    def _records(self, name: str, limit: float) -> Iterator[dict[str, Any]]:
        if not self.isolate:
            yield from run_section(name, self.quick, limit)
            return
        with tempfile.TemporaryDirectory() as folder:
            part, log = Path(folder) / "rows.jsonl", Path(folder) / "log"
            command = [sys.executable, __file__, "--only", name, "--part", str(part), "--out", str(self.out)]
            command += ["--seconds", str(limit), *(["--quick"] if self.quick else [])]
            with log.open("wb") as output:
                try:
                    code = subprocess.run(
                        command, stdout=output, stderr=subprocess.STDOUT, timeout=limit + LATEST_END_S, check=False
                    ).returncode
                    ended = f"ended with {code}"
                except subprocess.TimeoutExpired:
                    ended = "killed: out of time"
            records = list(_complete_lines(part))
            yield from records
            if not records or "outcome" not in records[-1]:
                yield {"outcome": ended, "error": log.read_text(encoding="utf-8", errors="replace")[-8_000:]}

    def _summary(self) -> str:
        try:
            from silverray.benchmarks.common.report import QUICK
            from silverray.benchmarks.gpu.summary import summarise

            text = (f"{QUICK}\n" if self.quick else "") + summarise(self._tables)
        except Exception:
            text = traceback.format_exc()
        sections = [f"{row['section']}: {row['outcome']}" for row in self._tables[SECTIONS_TABLE]]
        return "\n".join([", ".join(sections), text, f"all rows: {self.out / 'gpu.md'}, {self.out / 'gpu.json'}"])

    def _write(self, seconds: float) -> None:
        from silverray.benchmarks.common.report import Report

        report = Report("gpu", TITLE, COMMAND, quick=self.quick)
        columns = _columns()
        checks = [row for row in self._tables.get("Kernels against plain PyTorch", []) if row["outcome"] != "same"]
        report.facts({**self._facts, "seconds": round(seconds, 1), "checks that failed": len(checks)})
        for title, rows in self._tables.items():
            report.table(title, columns.get(title, {"section": "{section}"}), rows)
        report.write(self.out)


def _columns() -> dict[str, dict[str, str]]:
    """How tables are shown; those of modules that cannot be imported show their section alone."""
    found = {SECTIONS_TABLE: SECTIONS_COLUMNS}
    try:
        from silverray.benchmarks.gpu import checks, figures, peers

        found |= figures.COLUMNS
        found |= {checks.TITLE: checks.COLUMNS, peers.TITLE: peers.COLUMNS}
    except Exception:
        traceback.print_exc()
    return found


def _complete_lines(file: Path) -> Iterator[dict[str, Any]]:
    """What was written before a process was killed, a line that it had begun left out."""
    if file.exists():
        for line in file.read_text(encoding="utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line)


def _gpu_facts() -> dict[str, Any]:
    import torch

    facts: dict[str, Any] = {"interpreted": not torch.cuda.is_available()}
    if torch.cuda.is_available():
        its = torch.cuda.get_device_properties(0)
        facts |= {
            "gpu": its.name,
            "gpu memory GiB": round(its.total_memory / 2**30, 1),
            "multiprocessors": its.multi_processor_count,
            "L2 MiB": its.L2_cache_size / 2**20,
            "CUDA": torch.version.cuda,
            "driver": _driver(),
        }
    return facts


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, check=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


if __name__ == "__main__":
    main()
