"""How the commands talk: results on standard output, everything else on standard error."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from silverray.shard.api import InvalidRequest, SearchError, SnapshotError
from silverray.shard.printing import printable

USER_MISTAKE = 2
"""What Typer ends with where an option is wrong, and shells by custom."""
FAILURE = 1
"""What Python ends with after an exception."""

results = Console()
notes = Console(stderr=True)

_LINE_S = 10.0
"""A log of a start that takes minutes stays short, and whoever reads it sees that something moves."""
_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the command with one clear line where a person can mend what went wrong: exit code 2 for a mistake in
    what was given, 1 for a failure while running. Anything else is a defect and keeps its trace.
    """
    try:
        _require_folder()
        yield
    except KeyboardInterrupt as error:
        for note in getattr(error, "__notes__", ()):
            notes.print(f"interrupted; {note}", markup=False, highlight=False, soft_wrap=True)
        raise
    except (InvalidRequest, ValueError) as error:
        raise _exit(error, USER_MISTAKE) from None
    except (SearchError, SnapshotError, OSError, RuntimeError) as error:
        raise _exit(error, FAILURE) from None


def progress_bar() -> Progress:
    """A progress bar on standard error; silent where that is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=notes,
        disable=not notes.is_terminal,
    )


@contextmanager
def told_progress(what: str) -> Iterator[Callable[[str], None]]:
    """Give a function that tells what is being done: in place on a terminal, and elsewhere, such as in a log, a line
    when the stage changes (what comes before a colon), or `_LINE_S` after the line before.

    Args:
        what: stands on a terminal until something is told.
    """
    if notes.is_terminal:
        with notes.status(what) as line:
            yield lambda text: line.update(text)
        return
    yield _Lines().tell


def print_json(document: Any) -> None:
    """Print a document as JSON, whatever standard output is."""
    typer.echo(json.dumps(document, indent=2, default=str))


def plain(value: object) -> Text:
    """What a snapshot, an item or a user has said, as it is: neither a terminal nor Rich obeys it."""
    return Text(printable(str(value)))


def parse_duration(text: str) -> float:
    """Read a duration such as `30s`, `2m`, `500ms` or `1.5h`.

    Returns:
        Seconds, above 0.

    Raises:
        typer.BadParameter: it is none.

    Example:
        >>> parse_duration("1.5m")
        90.0
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", text.strip())
    seconds = float(match[1]) * _UNITS_S[match[2]] if match else 0.0
    if seconds <= 0:
        raise typer.BadParameter(f"expected a duration such as 30s or 2m, got {text!r}")
    return seconds


class _Lines:
    """Lines of progress, few enough for a log."""

    def __init__(self) -> None:
        self._last = ""
        self._at = -math.inf

    def tell(self, text: str) -> None:
        now, stage = time.monotonic(), text.partition(":")[0]
        if text == self._last or (stage == self._last.partition(":")[0] and now - self._at < _LINE_S):
            return
        self._last, self._at = text, now
        notes.print(text, markup=False, highlight=False, soft_wrap=True)


def _require_folder() -> None:
    """Raise OSError where the working directory was deleted: PyTorch cannot be loaded there, and ends the process."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise OSError("the working directory was deleted: expected one that is there; change to it with cd") from None


def _exit(error: Exception, code: int) -> typer.Exit:
    said = "; ".join([str(error), *getattr(error, "__notes__", ())])
    message = printable(" ".join(said.splitlines()))
    notes.print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(code)
