"""What diversification takes and what it does: `silverray bench diversity`.

Lists are the best of a generated catalog (see `catalogs.py`), which is clustered and rich in near duplicates, with the
items' country as a category. Similarity is the mean cosine of items that are less than a window apart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from silverray.benchmarks.common.catalogs import ClusteredCatalog, clustered, queries
from silverray.benchmarks.common.machine import THREADS, with_threads
from silverray.benchmarks.common.measure import interleave
from silverray.benchmarks.common.report import Report, Row
from silverray.shard.model.diversity import Diversity

TITLE = "Diversification of merged lists"
ITEMS, QUICK_ITEMS, DIMENSION = 50_000, 2_000, 64
"""The longest list, of 1,000, is 2 % of them, so that lists hold what is alike, as those of a search do."""
WINDOW, SPACING = 10, 0.5
"""The window is the service's default. The spacing is half of the strength, so that both show in the same list."""
SHAPES = ((1, 40, 10), (1, 200, 50), (1, 500, 50), (1, 1_000, 100), (16, 200, 50), (16, 1_000, 100))
"""Lists, candidates and places: 10 of 40 as a search for 10 has by default, up to the longest, 1,000 candidates; 50
of 500 is what decision 19.3 hangs on, and 16 lists together are those of a body."""
STRENGTHS = (0.0, 0.03, 0.1, 0.3, 1.0)
"""In units of scores of length-1 vectors: from none to more than scores differ by in a list; 0.3 is the default."""
LISTS, CANDIDATES, PLACES = 64, 80, 20
"""A search for 20 has 80 candidates by default (`oversample`); so many lists that no mean hangs on one."""
TIMES = {
    "lists": "{lists}",
    "candidates": "{candidates}",
    "places": "{places}",
    "spacing": "{spacing}",
    "ms": "{ms_p50:.2f}",
    "p20": "{ms_p20:.2f}",
    "p80": "{ms_p80:.2f}",
}
EFFECTS = {
    "strength": "{strength}",
    "similarity": "{similarity:.3f}",
    "same country as the one before": "{repeats:.1%}",
    "mean score": "{score:.4f}",
}


class Lists(NamedTuple):
    """Lists by score: scores `[B, N]`, embeddings `[B, N, D]`, which are valid, and countries `[B, 1, N]`."""

    scores: Tensor
    embeddings: Tensor
    valid: Tensor
    countries: Tensor

    def order(self, module: Diversity, strength: float, k: int) -> Tensor:
        """Places `[B, k]`."""
        strengths = torch.full((len(self.scores),), strength)
        codes = self.countries if len(module.weights) else None
        return module(*self[:3], strengths, k, codes)  # type: ignore[no-any-return]


def run(work: Path, *, quick: bool = False) -> Report:
    """Run the benchmark; `work` is not used."""
    report = Report("diversity", TITLE, "silverray bench diversity", quick=quick)
    catalog = clustered(QUICK_ITEMS if quick else ITEMS, DIMENSION)
    best = partial(_best, catalog)
    report.facts({"dimensions": DIMENSION, "window": WINDOW, "threads": THREADS})
    report.table("time", TIMES, _times(best, quick=quick))
    title = f"{PLACES} places of {CANDIDATES} candidates, spacing {SPACING} of countries"
    report.table(title, EFFECTS, [_effect(best(LISTS, CANDIDATES), strength) for strength in STRENGTHS])
    return report


def _best(catalog: ClusteredCatalog, lists: int, items: int) -> Lists:
    vectors = torch.from_numpy(catalog.vectors)
    countries = catalog.items.column("country").combine_chunks().dictionary_encode().indices
    codes = torch.from_numpy(countries.to_numpy().astype(np.int64))
    found = torch.topk(torch.from_numpy(queries(catalog, lists)) @ vectors.T, items)
    valid = torch.ones(lists, items, dtype=torch.bool)
    return Lists(found.values, vectors[found.indices], valid, codes[found.indices][:, None])


def _times(best: Callable[[int, int], Lists], *, quick: bool) -> list[Row]:
    modules = {"none": Diversity(WINDOW), "countries": Diversity(WINDOW, (SPACING,))}
    cells, calls = [], {}
    for count, items, k in SHAPES[: 2 if quick else None]:
        lists = best(count, items)
        for spacing, module in modules.items():
            cells.append({"lists": count, "candidates": items, "places": k, "spacing": spacing})
            calls[str(cells[-1])] = with_threads(partial(lists.order, module, 0.3, k), THREADS)
    with torch.inference_mode():
        timings = interleave(calls, rounds=3 if quick else 15).values()
    return [cell | timing.seconds(1e-3, "ms") for cell, timing in zip(cells, timings, strict=True)]


def _effect(lists: Lists, strength: float) -> Row:
    order = lists.order(Diversity(WINDOW, (SPACING,)), strength, PLACES)
    units = torch.nn.functional.normalize(lists.embeddings, dim=2)
    units = units.gather(1, order[:, :, None].expand(-1, -1, DIMENSION))
    cosines, countries = (units @ units.mT).numpy(), lists.countries[:, 0].gather(1, order)
    near = np.triu(np.ones((PLACES, PLACES), dtype=bool), 1) & ~np.triu(np.ones((PLACES, PLACES), dtype=bool), WINDOW)
    return {
        "strength": strength,
        "similarity": float(cosines[:, near].mean()),
        "repeats": float((countries[:, 1:] == countries[:, :-1]).float().mean()),
        "score": float(lists.scores.gather(1, order).mean()),
    }
