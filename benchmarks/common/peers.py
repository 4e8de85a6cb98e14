"""What a user would pick instead: faiss, hnswlib and usearch. Indexes are built once and kept beside the data.

Letters: N items, B queries, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from silverray.benchmarks.common.contenders import Ask, Contender, Floats, Ints
from silverray.benchmarks.common.datasets import DataSet

CHUNK = 20_000
"""Items added at a time, so that progress can be told."""
MOST_EF = 4_096
"""Eight times the 512 at which HNSW32 has recall .94 to .96 on real vectors; what is not reached then, the table
says."""
TRAINING = 200_000
"""About 100 vectors for each of 2,048 clusters; faiss asks for 39 at least and takes no more than 256 by default."""

Progress = Callable[[str, int, int], None]


class FaissIvf:
    """faiss's inverted lists over whole vectors or 8-bit codes; filters are bitmaps, its fastest exact selector."""

    knob: ClassVar = "n_probe"
    filters: ClassVar = True

    def __init__(self, data: DataSet, codes: str, progress: Progress) -> None:
        self.name = f"faiss IVF-{codes}"
        self.most = data.clusters
        self._faiss = load("faiss")
        self._selectors = _selectors(data)
        description = f"IVF{data.clusters},{codes}"

        def build(file: Path) -> None:
            index = self._faiss.index_factory(data.vectors.shape[1], description, self._faiss.METRIC_INNER_PRODUCT)
            index.cp.max_points_per_centroid = -(-TRAINING // data.clusters)
            sample = np.random.default_rng(0).permutation(len(data.vectors))[:TRAINING]
            index.train(data.vectors[sample])
            _add(data.vectors, index.add, self.name, progress)
            self._faiss.write_index(index, str(file))

        file = _kept(data.folder / f"faiss-{description.replace(',', '-')}.index", build)
        self._index = self._faiss.read_index(str(file))

    def search(self, queries: Floats, ask: Ask) -> Ints:
        """See `Contender.search`."""
        self._faiss.omp_set_num_threads(ask.threads)
        # One query alone keeps one thread busy unless its lists are shared out.
        self._index.parallel_mode = int(len(queries) == 1)
        parameters = self._faiss.SearchParametersIVF(nprobe=ask.setting, sel=self._selectors(ask.share))
        found: Ints = self._index.search(queries, ask.k, params=parameters)[1]
        return found


class FaissHnsw:
    """faiss's graph, 32 neighbours."""

    name: ClassVar = "faiss HNSW32"
    knob: ClassVar = "ef"
    filters: ClassVar = True
    most: ClassVar = MOST_EF

    def __init__(self, data: DataSet, progress: Progress) -> None:
        self._faiss = load("faiss")
        self._selectors = _selectors(data)

        def build(file: Path) -> None:
            index = self._faiss.IndexHNSWFlat(data.vectors.shape[1], 32, self._faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = 80
            _add(data.vectors, index.add, self.name, progress)
            self._faiss.write_index(index, str(file))

        self._index = self._faiss.read_index(str(_kept(data.folder / "faiss-HNSW32.index", build)))

    def search(self, queries: Floats, ask: Ask) -> Ints:
        """See `Contender.search`."""
        self._faiss.omp_set_num_threads(ask.threads)
        parameters = self._faiss.SearchParametersHNSW(efSearch=ask.setting, sel=self._selectors(ask.share))
        found: Ints = self._index.search(queries, ask.k, params=parameters)[1]
        return found


class Hnswlib:
    """hnswlib's graph, M = 16 (32 neighbours on the ground layer); its filters call Python for every item."""

    name: ClassVar = "hnswlib M16"
    knob: ClassVar = "ef"
    filters: ClassVar = False
    most: ClassVar = MOST_EF

    def __init__(self, data: DataSet, progress: Progress) -> None:
        def build(file: Path) -> None:
            index = load("hnswlib").Index(space="ip", dim=data.vectors.shape[1])
            index.init_index(max_elements=len(data.vectors), M=16, ef_construction=100)
            _add(data.vectors, index.add_items, self.name, progress)
            index.save_index(str(file))

        self._index = load("hnswlib").Index(space="ip", dim=data.vectors.shape[1])
        self._index.load_index(str(_kept(data.folder / "hnswlib-M16.index", build)))

    def search(self, queries: Floats, ask: Ask) -> Ints:
        """See `Contender.search`."""
        self._index.set_ef(ask.setting)
        found, _ = self._index.knn_query(queries, k=ask.k, num_threads=ask.threads)
        return np.asarray(found).astype(np.int64)


class Usearch:
    """usearch's graph with its own defaults, over numbers of a kind of its own choice or float32."""

    knob: ClassVar = "ef"
    filters: ClassVar = False
    most: ClassVar = MOST_EF

    def __init__(self, data: DataSet, kind: str | None, progress: Progress) -> None:
        def build(file: Path) -> None:
            index = open_empty()

            def add(block: Floats) -> None:
                index.add(len(index) + np.arange(len(block)), block)

            _add(data.vectors, add, self.name, progress)
            index.save(str(file))

        def open_empty() -> Any:
            return load("usearch.index").Index(ndim=data.vectors.shape[1], metric="ip", dtype=kind)

        self._index = open_empty()
        self.name = f"usearch {self._index.dtype.name.lower()}"
        self._index.load(str(_kept(data.folder / f"{self.name.replace(' ', '-')}.index", build)))

    def search(self, queries: Floats, ask: Ask) -> Ints:
        """See `Contender.search`."""
        self._index.expansion_search = ask.setting
        matches = self._index.search(queries, ask.k, threads=ask.threads)
        return np.asarray(matches.keys).astype(np.int64).reshape(len(queries), -1)


OPENERS: dict[str, Callable[[DataSet, Progress], Contender]] = {
    "ivf": lambda data, progress: FaissIvf(data, "Flat", progress),
    "sq8": lambda data, progress: FaissIvf(data, "SQ8", progress),
    "hnsw": FaissHnsw,
    "hnswlib": Hnswlib,
    "usearch": lambda data, progress: Usearch(data, None, progress),
    "usearch-f32": lambda data, progress: Usearch(data, "f32", progress),
}
"""The peers by the names that `--peers` takes."""


def open_peers(names: Collection[str], data: DataSet, progress: Progress) -> list[Contender]:
    """Load the peers' indexes over a data set; those that are not kept yet are built, which may take minutes.

    Raises:
        ValueError: there is no such peer.
        RuntimeError: a library is not installed.
    """
    if unknown := [name for name in names if name not in OPENERS]:
        raise ValueError(f"peers: there is no {unknown[0]!r}; there are {', '.join(OPENERS)}")
    return [OPENERS[name](data, progress) for name in names]


def load(module: str) -> Any:
    """Import a peer's library.

    Raises:
        RuntimeError: it is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise RuntimeError(f"{error.name} is not installed: pip install 'silverray[bench]'") from None


def _selectors(data: DataSet) -> Callable[[float], Any]:
    """faiss selectors by share, made once."""

    @cache
    def selector(share: float) -> Any:
        passing = data.passing(share)
        return None if passing is None else load("faiss").IDSelectorBitmap(np.packbits(passing, bitorder="little"))

    return selector


def _kept(file: Path, build: Callable[[Path], None]) -> Path:
    """The file, built first where it is not there; a build that was interrupted leaves none."""
    if not file.exists():
        unfinished = file.with_suffix(".unfinished")
        build(unfinished)
        unfinished.rename(file)
    return file


def _add(vectors: Floats, add: Callable[[Floats], object], name: str, progress: Progress) -> None:
    for start in range(0, len(vectors), CHUNK):
        progress(name, start, len(vectors))
        add(vectors[start : start + CHUNK])
    progress(name, len(vectors), len(vectors))
