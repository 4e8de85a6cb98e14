"""The engine: answers batches of admitted requests from loaded partitions, synchronously."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from silverray.kernels.programs import Opcode
from silverray.shard.api import SearchReply, SearchRequest
from silverray.shard.filter.compiler import CompiledFilter, Plan
from silverray.shard.index.catalog import Catalog
from silverray.shard.index.loader import LoadedPartitions, load_partitions
from silverray.shard.index.planner import coarse_keep
from silverray.shard.index.snapshot import SnapshotFiles
from silverray.shard.model.retrieval import Found, RetrievalModel


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
        self.model = RetrievalModel(loaded.lists, loaded.curve).eval()

    @classmethod
    def open(
        cls,
        path: Path,
        partitions: Sequence[int] | None = None,
        *,
        device: str = "auto",
        threads: int | None = None,
    ) -> Self:
        """Load partitions of a snapshot.

        Args:
            path: the snapshot's directory.
            partitions: which ones; None is all.
            device: a torch device, or "auto" for CUDA where there is one.
            threads: of the whole process for computing; None leaves them.

        Returns:
            The engine, ready to answer.

        Raises:
            SnapshotError: a file is missing or altered; the message names it.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        files = SnapshotFiles.open(path)
        catalog = Catalog.of(files)
        chosen = range(catalog.partitions) if partitions is None else partitions
        return cls(catalog, load_partitions(files, catalog, chosen, torch.device(device)))

    @torch.inference_mode()
    def answer(self, requests: Sequence[SearchRequest]) -> list[SearchReply]:
        """Answer admitted requests.

        Args:
            requests: with vectors and compiled filters, as `Admission.admit` returns them.

        Returns:
            One reply per request, in order.
        """
        replies: list[SearchReply | None] = [None] * len(requests)
        order = sorted(range(len(requests)), key=lambda place: _group(requests[place]))
        for _, members in groupby(order, key=lambda place: _group(requests[place])):
            places = list(members)
            for place, reply in zip(places, self._answer_group([requests[p] for p in places]), strict=True):
                replies[place] = reply
        return [reply for reply in replies if reply is not None]

    def _answer_group(self, requests: list[SearchRequest]) -> Iterator[SearchReply]:
        """Answer requests that share a plan's settings; each gets its own k of the group's largest."""
        start = perf_counter()
        device = self.model.lists.keys.device
        plans = [_filter_plan(request) for request in requests]
        queries = np.concatenate([_vectors(request) for request in requests])
        first = requests[0]
        found: Found = self.model(
            torch.from_numpy(queries).to(device),
            _pad_programs(plans).to(device),
            [plan.check for plan in plans],
            [request.k for request in requests],
            first.n_probe,
            first.refine == "all",
        )
        slots, scores = found.slots.cpu().numpy(), found.scores.cpu().numpy()
        elapsed = perf_counter() - start
        for row, request in enumerate(requests):
            mine = slots[row, : request.k]
            mine = mine[mine >= 0]
            yield SearchReply(
                ids=self.payload.ids(mine),
                keys=self.payload.keys(mine),
                scores=scores[row, : len(mine)],
                fields=self.payload.fields(request.fields, mine),
                version=self.catalog.version,
                seq=self.catalog.seq,
                explain=self._explain(request, found, row, len(mine), elapsed) if request.explain else None,
            )

    def _explain(self, request: SearchRequest, found: Found, row: int, count: int, elapsed: float) -> dict[str, Any]:
        plan = found.plan
        passing = int(plan.passing[row].sum())
        everything = bool(plan.survivors[row] | (found.widened[row] & (request.n_probe is None)))
        visited = plan.passing[row] if everything else plan.passing[row][plan.clusters()[row]]
        return {
            "plan": "survivors" if everything else "probe",
            "widened": bool(found.widened[row]),
            "probes": len(plan.passing[row]) if everything else int((plan.probes[row] >= 0).sum()),
            "clusters": len(plan.passing[row]),
            "passing": passing,
            "selectivity": passing / max(1, self.items),
            "scored": int(visited.sum()),
            "verified": _filter_plan(request).check is not None,
            "short": count < request.k,
            "batch_ms": round(elapsed * 1e3, 3),
        }


def _group(request: SearchRequest) -> tuple[int, int, bool]:
    return coarse_keep(request.k), request.n_probe or 0, request.refine == "all"


def _filter_plan(request: SearchRequest) -> Plan:
    assert isinstance(request.filter, CompiledFilter), "the request was not admitted"
    return request.filter.exact if request.mode == "exact" else request.filter.bloom


def _vectors(request: SearchRequest) -> NDArray[np.float32]:
    assert request.vectors is not None, "the request was not encoded"
    return request.vectors


def _pad_programs(plans: list[Plan]) -> torch.Tensor:
    programs = np.full((len(plans), max(len(plan.program) for plan in plans)), int(Opcode.NOP), dtype=np.int32)
    for row, plan in enumerate(plans):
        programs[row, : len(plan.program)] = plan.program
    return torch.from_numpy(programs)
