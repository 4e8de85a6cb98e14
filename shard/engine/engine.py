"""The engine: answers batches of admitted requests from loaded partitions, synchronously."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from silverray.kernels import topk
from silverray.kernels.programs import Opcode, instruction
from silverray.shard.api import ReplyTooLarge, SearchReply, SearchRequest, TaskScores, shown
from silverray.shard.engine.explanation import explain_search, explain_stages
from silverray.shard.engine.loaded import LoadedIndex
from silverray.shard.engine.loading import check_dimension, check_loading, choose_device
from silverray.shard.engine.rank import Best, Programs, ShardRunner
from silverray.shard.engine.reply_sizes import longest, too_large
from silverray.shard.engine.rerank import WINDOW, SetRanker
from silverray.shard.filter.compiler import CompiledFilter
from silverray.shard.filter.compiler import Plan as FilterPlan
from silverray.shard.filter.expression import And
from silverray.shard.index.key_index import FREE
from silverray.shard.index.loader import load_partitions
from silverray.shard.index.placement import ItemCache, Placement
from silverray.shard.index.planner import candidates_for, coarse_keep
from silverray.shard.model.candidate_features import Traits, read_traits
from silverray.shard.model.ranking import Ranked
from silverray.shard.model.scorer_files import INNER_PRODUCT, OverArch, load_overarch
from silverray.shard.model.shard_model import ShardModel
from silverray.shard.model.stages import Stage
from silverray.shard.model.verification import Answers
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.snapshot.files import SnapshotFiles
from silverray.shard.value.settings import ValueSettings
from silverray.shard.value.valuer import Asked, Valuer

_logger = logging.getLogger(__name__)

_EVERYTHING = (instruction(Opcode.LOAD),)
_NOTHING = (instruction(Opcode.LOAD), instruction(Opcode.ANDNOT))


class Engine:
    """The model and the payload of a shard's partitions.

    What a search finds is ranked where there is anything to rank by: several tasks, a learned scorer or a formula.
    Otherwise it stands by its exact scores. A set-wise scorer comes after that, on whole lists: here where a request
    is answered from these partitions alone, and elsewhere where it asks for traits.

    Args:
        catalog: the snapshot's catalog.
        index: its partitions held here.
        partitions: which ones these are.
        overarch: the snapshot's scorer.
        value: the formulas.
        slack: free slots for each item when they were loaded; None if they take no updates.
        window: items of a list that a set-wise scorer judges together.

    Attributes:
        applied: number of the last log entry that answers include.
        set_ranker: re-ranks lists; None where the scorer is pointwise.

    Raises:
        FormulaError: a formula is wrong.
    """

    def __init__(
        self,
        catalog: Catalog,
        index: LoadedIndex,
        partitions: Sequence[int],
        overarch: OverArch,
        value: ValueSettings,
        slack: float | None = None,
        window: int = WINDOW,
    ) -> None:
        self.catalog = catalog
        self.partitions = tuple(partitions)
        self.slack = slack
        self.applied = catalog.seq
        self.scorer = overarch.name
        self.valuer = Valuer(value, catalog.tasks, catalog.schema)
        pointwise = overarch.scorer.pointwise
        self._of_items, self._of_lists = (overarch, INNER_PRODUCT) if pointwise else (INNER_PRODUCT, overarch)
        self.set_ranker = None if pointwise else SetRanker(overarch.scorer, catalog.tasks, self.valuer, window)
        self.install(index)

    def install(self, index: LoadedIndex) -> None:
        """Answer from these arrays from now on; no other call may be going on."""
        self.index = index
        self.payload = index.loaded.payload
        self.memory = index.loaded.memory
        retrieval = index.retrieval
        scorer = self._of_items.scorer.to(retrieval.lists.keys.device)
        self.model = ShardModel(
            retrieval, len(self.catalog.tasks), scorer, self._of_items.features, self.valuer.models
        ).eval()
        self._judge = ShardRunner(self.model, index.search, self.valuer)
        self.ranker = self._judge if self.model.ranks else None

    @property
    def items(self) -> int:
        """How many items there are now."""
        return self.model.lists.items

    @classmethod
    def open(
        cls,
        path: str | Path,
        partitions: Sequence[int] | None = None,
        *,
        device: str = "auto",
        threads: int | None = None,
        item_cache: ItemCache = "device",
        slack: float | None = None,
        value: ValueSettings = ValueSettings(),  # noqa: B008 (immutable)
        window: int = WINDOW,
    ) -> Self:
        """Load partitions of a snapshot.

        Args:
            path: the snapshot's directory.
            partitions: which ones; None is all.
            device: a torch device, or "auto" for CUDA where there is one.
            threads: of the whole process for computing; None leaves them.
            item_cache: where item vectors lie, if the device is a GPU: in its memory, or pinned in the host's.
            slack: free slots for each item, if there will be updates (see `silverray.shard.live`); None if not.
            value: the formulas that value candidates.
            window: items of a list that a set-wise scorer judges together, where none but this engine does.

        Returns:
            The engine, ready to answer: its kernels are compiled.

        Raises:
            ValueError: an argument is none of what is expected.
            SnapshotError: a file is missing or altered, or the device does not search so many dimensions; the message
                names the file or the snapshot.
            ShardTooLarge: the partitions do not fit into memory.
            FormulaError: a formula is wrong.
        """
        placement = Placement(choose_device(device), item_cache)
        check_loading(partitions, threads, item_cache, slack, value, window)
        if threads is not None:
            torch.set_num_threads(threads)
        files = SnapshotFiles.open(path)
        catalog = Catalog.of(files)
        check_dimension(catalog.path, catalog.dimension, placement.device)
        chosen = range(catalog.partitions) if partitions is None else [int(number) for number in partitions]
        overarch = load_overarch(files, catalog.schema)
        loaded = load_partitions(files, catalog, chosen, placement, slack=slack)
        engine = cls(catalog, LoadedIndex.of(loaded), chosen, overarch, value, slack, window)
        engine.warm_up()
        _logger.info("%s items, kernels %s, %s threads", engine.items, engine.kernels, torch.get_num_threads())
        return engine

    @property
    def kernels(self) -> str:
        """Which kernels compute: the name of the CPU's vector instructions, or the device's type."""
        device = self.model.lists.keys.device.type
        if device != "cpu":
            return device
        from silverray.kernels.cpu.simd import implementation

        return implementation()

    def warm_up(self) -> None:
        """Compile every kernel that a search may need, so that no request waits for it."""
        query = np.ones((1, self.catalog.dimension), dtype=np.float32)
        everything, nothing = (np.array(codes, dtype=np.int32) for codes in (_EVERYTHING, _NOTHING))
        for check in (None, And(())):
            self.find(query, [FilterPlan(nothing, check)], [1])  # survivors are scored
            for refine_all in (False, True):
                self.find(query, [FilterPlan(everything, check)], [1], 1, refine_all)
        topk.warm_up(self.model.lists.keys.device)
        for rows in (1, 2) if len(self.model.lists) else ():
            users = self.model.lists.centroids.new_zeros(rows, len(self.catalog.tasks), self.catalog.dimension)
            self.model.scoring(users, torch.full((rows, 1), -1, device=users.device))

    @torch.inference_mode()
    def find(
        self,
        queries: NDArray[np.float32],
        plans: Sequence[FilterPlan],
        ks: Sequence[int],
        n_probe: int | None = None,
        refine_all: bool = False,
    ) -> Answers:
        """Run the search; the arguments are those of `Search`, with one compiled plan for each query."""
        vectors = torch.from_numpy(queries).to(self.model.lists.keys.device)
        return self._judge.search(vectors, *self._programs(plans), ks, n_probe, refine_all)

    @torch.inference_mode()
    def best(
        self,
        queries: NDArray[np.float32],
        plans: Sequence[FilterPlan],
        ks: Sequence[int],
        n_probe: int | None = None,
        refine_all: bool = False,
        asked: Sequence[Asked] | None = None,
        quotas: Sequence[int] = (),
    ) -> Best:
        """Find the best items of B requests.

        Args:
            queries: `[B * T, D]` float32, the tasks of a request one after another.
            plans: of each request's filter.
            ks: number of items wanted by each; all of one group of `answer`.
            n_probe: clusters to visit; None lets the planner choose.
            refine_all: score every visited item exactly.
            asked: what each request says of its values; None is nothing.
            quotas: of a model with several tasks, as in `ShardModel.forward`.
        """
        vectors = torch.from_numpy(queries).to(self.model.lists.keys.device)
        of_requests = vectors.view(len(plans), self.model.tasks, self.catalog.dimension)
        asked = asked or [Asked()] * len(plans)
        return self._judge.best(of_requests, self._programs(plans), ks, n_probe, refine_all, asked, quotas)

    def _programs(self, plans: Sequence[FilterPlan]) -> Programs:
        """The programs of filters, each once."""
        device = self.model.lists.keys.device
        places = {plan: place for place, plan in enumerate(dict.fromkeys(plans))}
        filters = torch.tensor([places[plan] for plan in plans], device=device)
        return Programs(_pad_programs(list(places)).to(device), filters, [plan.check for plan in places])

    def answer(self, requests: Sequence[SearchRequest]) -> list[SearchReply]:
        """Answer admitted requests.

        Args:
            requests: with vectors and compiled filters, as `Admission.admit` returns them.

        Returns:
            One reply per request, in order.
        """
        return list(map(self._with_fields, requests, self._found(requests)))

    def answer_within(
        self, requests: Sequence[SearchRequest], max_bytes: int | None
    ) -> list[SearchReply | ReplyTooLarge]:
        """Answer as `answer` does, and build no more texts than fit into one message.

        Args:
            requests: as for `answer`.
            max_bytes: most bytes of payload that all replies have together; None is no bound.

        Returns:
            One reply per request; `ReplyTooLarge` for those that do not fit, the longest first.
        """
        if max_bytes is None:
            return [*self.answer(requests)]
        found = self._found(requests)
        sizes = {
            place: self.payload.text_bytes(request.fields, self.payload.slots(reply.keys))
            for place, (request, reply) in enumerate(zip(requests, found, strict=True))
            if request.fields
        }
        left_out = longest(sizes, max_bytes)
        return [
            too_large(max_bytes) if place in left_out else self._with_fields(request, reply)
            for place, (request, reply) in enumerate(zip(requests, found, strict=True))
        ]

    def _found(self, requests: Sequence[SearchRequest]) -> list[SearchReply]:
        """Replies without their fields."""
        if self.set_ranker is None:
            return self.find_lists(requests)
        return self.set_ranker.answer(requests, self.find_lists)

    def _with_fields(self, request: SearchRequest, reply: SearchReply) -> SearchReply:
        if not request.fields:
            return reply
        return replace(reply, fields=self.payload.fields(request.fields, self.payload.slots(reply.keys)))

    def find_lists(self, requests: Sequence[SearchRequest]) -> list[SearchReply]:
        """Answer admitted requests as far as items can be judged one by one, without their fields."""
        replies: list[SearchReply | None] = [
            None if request.keys is None else self.rank_given(request, request.keys) for request in requests
        ]
        groups = [self._group(request) if request.keys is None else None for request in requests]
        for group in set(groups) - {None}:
            places = [place for place, its in enumerate(groups) if its == group]
            for place, reply in zip(places, self._answer_group([requests[p] for p in places]), strict=True):
                replies[place] = reply
        return [reply for reply in replies if reply is not None]

    @torch.inference_mode()
    def rank_given(self, request: SearchRequest, keys: NDArray[np.int64]) -> SearchReply:
        """Rank given items, found or not: all that there are, by (value desc, key asc); filter and k do not matter."""
        start = perf_counter()
        keys = np.sort(keys)
        slots = self.payload.slots(keys)
        wanted = slots != FREE
        wanted[1:] &= keys[1:] != keys[:-1]  # once each
        keys, slots = keys[wanted], slots[wanted]
        device = self.model.lists.keys.device
        users = torch.tensor(_vectors(request), device=device)[None]  # a copy: what was received may be read-only
        places = torch.from_numpy(slots).to(device)[None]
        judged = self._judge.judge(users, places, [Asked.of(request)])
        best = topk.top_k(judged.values, torch.from_numpy(keys).to(device), len(slots))
        order = best.places[0].cpu().numpy()
        chosen, predictions = slots[order], judged.predictions[0].cpu().numpy().take(order, axis=0)
        told = {"ranked": len(slots), "batch_ms": round((perf_counter() - start) * 1e3, 3)}
        return SearchReply(
            ids=self.payload.ids(chosen),
            keys=keys[order],
            scores=best.scores[0].cpu().numpy(),
            version=self.catalog.version,
            seq=self.applied,
            explain=told if request.explain else None,
            tasks=TaskScores(self.catalog.tasks, predictions, np.full_like(predictions, -np.inf)),
            traits=self.traits(request, chosen),
        )

    def _answer_group(self, requests: list[SearchRequest]) -> Iterator[SearchReply]:
        """Answer requests that share a plan's settings; each gets its own k of the group's largest."""
        start = perf_counter()
        first = requests[0]
        ks = [request.k for request in requests]
        best = self.best(
            np.concatenate([_vectors(request) for request in requests]),
            [_filter_plan(request) for request in requests],
            ks,
            first.n_probe,
            first.refine == "all",
            [Asked.of(request) for request in requests] if self.ranker else None,
            first.quotas,
        )
        slots, scores = best.slots.cpu().numpy(), best.scores.cpu().numpy()
        tasks = None if best.ranked is None else self._task_scores(best.ranked)
        elapsed = perf_counter() - start
        counts = (slots >= 0).sum(axis=1)
        if not first.quotas:
            counts = np.minimum(counts, ks)
        mine = slots[np.arange(slots.shape[1]) < counts[:, None]]
        keys, ids = self.payload.keys(mine), self.payload.ids(mine)
        end = 0
        for row, (request, count) in enumerate(zip(requests, counts.tolist(), strict=True)):
            part = slice(end, end := end + count)
            yield SearchReply(
                ids=ids[part],
                keys=keys[part],
                scores=scores[row, :count],
                version=self.catalog.version,
                seq=self.applied,
                explain=self._explain(request, best, row, count, elapsed) if request.explain else None,
                tasks=tasks
                and tasks._replace(predictions=tasks.predictions[row, :count], found=tasks.found[row, :count]),
                traits=self.traits(request, mine[part]),
            )

    def traits(self, request: SearchRequest, slots: NDArray[np.int64]) -> Traits | None:
        """What a request asks to be told of the items in `slots`, `[n]`."""
        if request.traits is None:
            return None
        fields = () if self.set_ranker is None else self.valuer.fields(request.variant)
        return read_traits(self.model.lists, slots, request.traits, self._of_lists.features, fields)

    def _task_scores(self, ranked: Ranked) -> TaskScores:
        """Those of a whole batch, `[B, k, T]`."""
        return TaskScores(self.catalog.tasks, ranked.predictions.cpu().numpy(), ranked.found.cpu().numpy())

    def _explain(self, request: SearchRequest, best: Best, row: int, count: int, elapsed: float) -> dict[str, Any]:
        queries = torch.tensor(_vectors(request), device=self.model.lists.planes.device)
        rows = slice(row * len(queries), (row + 1) * len(queries))
        searched = explain_search(self.model, _filter_plan(request), queries, request.n_probe, best.found, rows)
        stages = best.stages or [Stage("retrieve", elapsed, (best.slots >= 0).sum(dim=1))]
        return {
            **searched,
            "short": count < request.k,
            "batch_ms": round(elapsed * 1e3, 3),
            "stages": explain_stages(stages, row, searched["scored"], count),
        }

    def _group(self, request: SearchRequest) -> tuple[int, int, bool, tuple[int, ...]]:
        """Requests of one group can be searched together: the number of candidates is the same for all."""
        every = request.refine == "all"
        keep = coarse_keep(request.k) if self.ranker is None else candidates_for(request.k, every)
        return keep, request.n_probe or 0, every, request.quotas


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


def require_engine(engine: object, owner: str) -> None:
    """Make sure that a searcher was given an engine.

    Raises:
        ValueError: it is something else, such as the path of a snapshot.
    """
    if not isinstance(engine, Engine):
        raise ValueError(f"engine: expected an Engine, got {shown(engine)}; {owner}.open(path) loads a snapshot")
