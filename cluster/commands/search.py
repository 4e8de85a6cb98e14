"""`silverray search`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from silverray.cluster.commands.item_files import read_vectors
from silverray.cluster.commands.terminal import notes, plain, print_json, results
from silverray.router.http.client import SearchClient
from silverray.shard.api import InvalidRequest
from silverray.shard.arguments import float32_array


def make_body(
    vector: Path | None,
    user: str | None,
    filter_text: str | None,
    k: int,
    fields: str,
    n_probe: int | None,
    deadline_ms: float | None,
    diversify: float | None,
    variant: str | None,
    context: str | None,
    *,
    explain: bool,
) -> dict[str, Any]:
    """The body of a search.

    Raises:
        ValueError: not exactly one of vector and user, or one that cannot be read.
    """
    if (vector is None) == (user is None):
        raise ValueError("expected either --vector FILE.npy or --user JSON")
    optional = {
        "filter": filter_text,
        "fields": [name.strip() for name in fields.split(",") if name.strip()] or None,
        "n_probe": n_probe,
        "deadline_ms": deadline_ms,
        "diversify": None if diversify is None else {"strength": diversify},
        "variant": variant,
        "context": None if context is None else _object("--context", context),
        "explain": explain or None,
    }
    query = _vector(vector) if vector is not None else {"user": _object("--user", user or "")}
    return {**query, "k": k, **{key: value for key, value in optional.items() if value is not None}}


def named(options: Sequence[str]) -> dict[str, Any]:
    """Keys of a body that are given as options of their names, each with its value in JSON or as a text.

    Raises:
        ValueError: an option has no value, or a value no option.

    Example:
        >>> named(["--mode", "bloom", "--min-seq=7"])
        {'mode': 'bloom', 'min_seq': 7}
    """
    words = [part for option in options for part in (option.split("=", 1) if option.startswith("--") else [option])]
    given = {}
    for name, value in zip_longest(words[::2], words[1::2]):
        if not name.startswith("--"):
            raise ValueError(f"expected an option such as --mode bloom, got {name}")
        if value is None:
            raise ValueError(f"{name}: expected a value")
        given[name[2:].replace("-", "_")] = _json_or_text(value)
    return given


def _json_or_text(value: str) -> Any:
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def run_search(url: str, body: dict[str, Any], *, as_json: bool) -> None:
    """Ask and print the items."""
    with SearchClient(url) as client:
        reply = client.search(body)
    if as_json:
        print_json(reply)
        return
    fields = body.get("fields", [])
    table = Table("", "id", "score", *(escape(name) for name in fields))
    for place, item in enumerate(reply["items"], 1):
        values = [item["fields"].get(name) for name in fields]
        table.add_row(str(place), plain(item["id"]), f"{item['score']:.4f}", *(plain(_text(value)) for value in values))
    results.print(table)
    coverage = reply["coverage"]
    if coverage["degraded"]:
        notes.print(f"degraded: {coverage['answered']} of {coverage['shards']} shards answered", style="yellow")
    if body.get("explain"):
        results.print_json(data=reply["explain"])


def _vector(file: Path) -> dict[str, Any]:
    try:
        values = float32_array(read_vectors(file), f"--vector {file}")
    except InvalidRequest as error:
        raise ValueError(str(error)) from None
    if not np.isfinite(values).all():
        raise ValueError(f"--vector {file}: holds NaN, infinity or a number beyond float32")
    if values.ndim not in (1, 2):
        raise ValueError(f"--vector {file}: expected [D] or [T, D], got {list(values.shape)}")
    return {"vector" if values.ndim == 1 else "vectors": values.tolist()}


def _object(option: str, text: str) -> dict[str, Any]:
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{option}: not JSON: {error}") from None
    if not isinstance(given, dict):
        raise ValueError(f"{option}: expected an object, got {text!r}")
    return given


def _text(value: object) -> str:
    if value is None:
        return "–"  # noqa: RUF001 (a dash, on purpose)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
