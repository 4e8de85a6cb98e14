"""The engine: answers batches of admitted requests from loaded partitions, synchronously."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from silverray.kernels.bits import count_ranges
from silverray.kernels.programs import Opcode, evaluate_programs, instruction
from silverray.shard.api import SearchReply, SearchRequest, Traits
from silverray.shard.filter.compiler import CompiledFilter
from silverray.shard.filter.compiler import Plan as FilterPlan
from silverray.shard.filter.expression import And
from silverray.shard.index.catalog import Catalog
from silverray.shard.index.loader import LoadedPartitions, load_partitions
from silverray.shard.index.placement import ItemCache, Placement
from silverray.shard.index.planner import Plan, coarse_keep
from silverray.shard.index.snapshot import SnapshotFiles
from silverray.shard.model.graphs import Graphs
from silverray.shard.model.retrieval import RetrievalModel
from silverray.shard.model.search import Answers, Search

_logger = logging.getLogger(__name__)

_EVERYTHING = (instruction(Opcode.LOAD),)
_NOTHING = (instruction(Opcode.LOAD), instruction(Opcode.ANDNOT))


class Engine:
    """The model and the payload of a shard's partitions.

    Args:
        catalog: the snapshot's catalog.
        loaded: its partitions held here.
    """

    def __init__(self, catalog: Catalog, loaded: LoadedPartitions) -> None:
        self.catalog = catalog
        self.items = len(loaded.lists)
        self.payload = loaded.payload
        self.memory = loaded.memory
        self.model = RetrievalModel(loaded.lists, loaded.curve).eval()
        self._graphs = Graphs(self.model) if self.model.lists.keys.is_cuda else None
        self._search = Search(self.model, self._graphs)

    @classmethod
    def open(
        cls,
        path: Path,
        partitions: Sequence[int] | None = None,
        *,
        device: str = "auto",
        threads: int | None = None,
        item_cache: ItemCache = "device",
    ) -> Self:
        """Load partitions of a snapshot.

        Args:
            path: the snapshot's directory.
            partitions: which ones; None is all.
            device: a torch device, or "auto" for CUDA where there is one.
            threads: of the whole process for computing; None leaves them.
            item_cache: where item vectors lie, if the device is a GPU: in its memory, or pinned in the host's.

        Returns:
            The engine, ready to answer: its kernels are compiled.

        Raises:
            SnapshotError: a file is missing or altered; the message names it.
            ShardTooLarge: the partitions do not fit into memory.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        files = SnapshotFiles.open(path)
        catalog = Catalog.of(files)
        chosen = range(catalog.partitions) if partitions is None else partitions
        engine = cls(catalog, load_partitions(files, catalog, chosen, Placement(torch.device(device), item_cache)))
        engine.warm_up()
        _logger.info("%s items, kernels %s, %s threads", engine.items, engine.kernels, torch.get_num_threads())
        return engine

    @property
    def kernels(self) -> str:
        """Which kernels compute: the name of the CPU's vector instructions, or the device's type."""
        device = self.model.lists.keys.device.type
        if device != "cpu":
            return device
        from silverray.kernels.simd import implementation

        return implementation()

    def warm_up(self) -> None:
        """Compile every kernel and capture every graph that a search may need, so that no request waits for it."""
        query = np.ones((1, self.catalog.dimension), dtype=np.float32)
        everything, nothing = (np.array(codes, dtype=np.int32) for codes in (_EVERYTHING, _NOTHING))
        for check in (None, And(())):
            self.find(query, [FilterPlan(nothing, check)], [1])  # survivors are scored
            for refine_all in (False, True):
                self.find(query, [FilterPlan(everything, check)], [1], 1, refine_all)
        if self._graphs is not None:
            with torch.inference_mode():
                self._graphs.warm_up()

    @torch.inference_mode()
    def find(
        self,
        queries: NDArray[np.float32],
        plans: Sequence[FilterPlan],
        ks: Sequence[int],
        n_probe: int | None = None,
        refine_all: bool = False,
    ) -> Answers:
        """Run the model; the arguments are those of `Search`, with one compiled plan for each query."""
        device = self.model.lists.keys.device
        places = {plan: place for place, plan in enumerate(dict.fromkeys(plans))}
        filters = torch.tensor([places[plan] for plan in plans], device=device)
        programs = _pad_programs(list(places)).to(device)
        checks = [plan.check for plan in places]
        return self._search(torch.from_numpy(queries).to(device), programs, filters, checks, ks, n_probe, refine_all)

    def answer(self, requests: Sequence[SearchRequest]) -> list[SearchReply]:
        """Answer admitted requests.

        Args:
            requests: with vectors and compiled filters, as `Admission.admit` returns them.

        Returns:
            One reply per request, in order.
        """
        groups = [_group(request) for request in requests]
        replies: list[SearchReply | None] = [None] * len(requests)
        for group in set(groups):
            places = [place for place, its in enumerate(groups) if its == group]
            for place, reply in zip(places, self._answer_group([requests[p] for p in places]), strict=True):
                replies[place] = reply
        return [reply for reply in replies if reply is not None]

    def _answer_group(self, requests: list[SearchRequest]) -> Iterator[SearchReply]:
        """Answer requests that share a plan's settings; each gets its own k of the group's largest."""
        start = perf_counter()
        first = requests[0]
        ks = [request.k for request in requests]
        found = self.find(
            np.concatenate([_vectors(request) for request in requests]),
            [_filter_plan(request) for request in requests],
            ks,
            first.n_probe,
            first.refine == "all",
        )
        slots, scores = found.slots.cpu().numpy(), found.scores.cpu().numpy()
        elapsed = perf_counter() - start
        counts = np.minimum((slots >= 0).sum(axis=1), ks)
        mine = slots[np.arange(slots.shape[1]) < counts[:, None]]
        keys, ids = self.payload.keys(mine), self.payload.ids(mine)
        end = 0
        for row, (request, count) in enumerate(zip(requests, counts.tolist(), strict=True)):
            part = slice(end, end := end + count)
            yield SearchReply(
                ids=ids[part],
                keys=keys[part],
                scores=scores[row, :count],
                fields=self.payload.fields(request.fields, mine[part]),
                version=self.catalog.version,
                seq=self.catalog.seq,
                explain=self._explain(request, found, row, count, elapsed) if request.explain else None,
                traits=None if request.traits is None else self.traits(request.traits, mine[part]),
            )

    def traits(self, names: Sequence[str], slots: NDArray[np.int64]) -> Traits:
        """Vectors and categories of the items in `slots`, `[n]`."""
        lists = self.model.lists
        vectors = lists.vectors[torch.from_numpy(slots).to(lists.vectors.device)].float().cpu().numpy()
        places = torch.from_numpy(slots).to(lists.keys.device)
        codes = np.empty((len(names), len(slots)), dtype=np.int64)
        for row, name in enumerate(names):
            column = lists.columns.fields[name].take(places)
            values = column.values if column.present is None else torch.where(column.present, column.values, -1)
            codes[row] = values.cpu().numpy()
        return Traits(vectors, codes)

    @torch.inference_mode()
    def _explain(self, request: SearchRequest, found: Answers, row: int, count: int, elapsed: float) -> dict[str, Any]:
        lists, compiled = self.model.lists, _filter_plan(request)
        device = lists.planes.device
        programs, filters = _pad_programs([compiled]).to(device), torch.zeros(1, dtype=torch.int64, device=device)
        passing = count_ranges(evaluate_programs(lists.planes, programs), lists.offsets)[0]
        plan = Plan(*(part[row : row + 1] for part in found.plan))
        queries = torch.from_numpy(_vectors(request)).to(device)
        probes = self.model.planner.probes(plan, queries, programs, filters)[0]
        everything = bool(plan.survivors | (found.widened[row] & (request.n_probe is None)))
        return {
            "plan": "survivors" if everything else "probe",
            "widened": bool(found.widened[row]),
            "probes": len(passing) if everything else len(probes),
            "clusters": len(passing),
            "passing": int(passing.sum()),
            "selectivity": int(passing.sum()) / max(1, self.items),
            "scored": int(passing.sum() if everything else passing[probes].sum()),
            "verified": compiled.check is not None,
            "short": count < request.k,
            "batch_ms": round(elapsed * 1e3, 3),
        }


def _group(request: SearchRequest) -> tuple[int, int, bool]:
    return coarse_keep(request.k), request.n_probe or 0, request.refine == "all"


def _filter_plan(request: SearchRequest) -> FilterPlan:
    assert isinstance(request.filter, CompiledFilter), "the request was not admitted"
    return request.filter.plan(request.mode)


def _vectors(request: SearchRequest) -> NDArray[np.float32]:
    assert request.vectors is not None, "the request was not encoded"
    return request.vectors


def _pad_programs(plans: list[FilterPlan]) -> torch.Tensor:
    if len(plans) == 1:
        return torch.from_numpy(plans[0].program)[None]
    programs = np.full((len(plans), max(len(plan.program) for plan in plans)), int(Opcode.NOP), dtype=np.int32)
    for row, plan in enumerate(plans):
        programs[row, : len(plan.program)] = plan.program
    return torch.from_numpy(programs)
