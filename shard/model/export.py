"""Exporting: the model of chosen partitions as one file that PyTorch loads without the rest of a shard.

Letters: Q queries, T tasks, D dimensions, U programs, L instructions.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from silverray.kernels.programs import MAX_INSTRUCTIONS, Opcode, instruction
from silverray.shard.model.shard_model import ShardModel
from silverray.shard.paths import as_path
from silverray.shard.snapshot.catalog import Catalog

INFO_FILE = "module_info.json"
MAX_QUERIES = 4_096
"""Largest batch of an exported model, which export needs to know: 64 times what a router sends."""

INPUTS = ("queries", "programs", "filters")
OUTPUTS = ("keys", "scores", "slots", "overflow")


class ExportedModel(nn.Module):
    """A shard's model for one k, whose inputs and outputs are tensors only.

    Args:
        model: of some partitions.
        k: number of items of an answer.
        n_probe: clusters to visit; None lets the planner choose.
    """

    def __init__(self, model: ShardModel, k: int, n_probe: int | None) -> None:
        super().__init__()
        self.model = model
        self._k = k
        self._n_probe = n_probe

    def forward(self, queries: Tensor, programs: Tensor, filters: Tensor) -> tuple[Tensor, ...]:
        """Find the k best items of each query, by the mean of their predictions where they are ranked.

        Args:
            queries: `[Q, D]` float32, of length 1 where the metric is cosine; `[Q, T, D]` where items are ranked.
            programs: `[U, L]` int32 plane programs, as filters compile to.
            filters: `[Q]` int64, the program of each query.

        Returns:
            Keys (`[Q, k]` int64, by score desc and key asc, -1 where there are no more), scores (`[Q, k]` float32, -inf
            where there are no more), slots (`[Q, k]` int64 places of the items, likewise) and overflow (`[Q]` bool; on
            a GPU, more items passed than there was room for, so items may lack). Where items are ranked also
            predictions, `[Q, k, T]` float32; undefined where there is no item.
        """
        vectors = queries if self.model.ranks else queries[:, None]
        best = self.model(vectors, programs, filters, torch.full_like(filters, self._k), self._k, self._n_probe)
        outputs = best.keys, best.scores, best.slots, best.overflow
        return (*outputs, best.predictions) if self.model.ranks else outputs


def export_model(model: ShardModel, k: int, n_probe: int | None = None) -> ExportedProgram:
    """Export a model for batches of any size up to `MAX_QUERIES`, with any programs.

    Args:
        model: of some partitions, at least one item.
        k: number of items of an answer.
        n_probe: clusters to visit; None lets the planner choose.
    """
    device = model.lists.keys.device
    dimension = model.lists.codes.shape[1]
    shape = (model.tasks, dimension) if model.ranks else (dimension,)
    queries = torch.zeros(2, *shape, device=device)
    everything = instruction(Opcode.LOAD)
    programs = torch.full((3, 5), int(Opcode.NOP), dtype=torch.int32, device=device)
    programs[:, 0] = everything
    filters = torch.zeros(2, dtype=torch.int64, device=device)
    count = Dim("queries", max=MAX_QUERIES)
    shapes = {
        "queries": {0: count},
        "programs": {0: Dim("programs", max=MAX_QUERIES), 1: Dim("instructions", max=MAX_INSTRUCTIONS)},
        "filters": {0: count},
    }
    exported = ExportedModel(model, k, n_probe).eval()
    return torch.export.export(exported, (queries, programs, filters), dynamic_shapes=shapes)


def describe(
    catalog: Catalog, partitions: list[int], k: int, n_probe: int | None, *, ranked: bool = False
) -> dict[str, Any]:
    """What stands beside an exported model in `module_info.json`; `ranked` says whether it ranks what it finds."""
    return {
        "input_names": list(INPUTS),
        "output_names": [*OUTPUTS, *(["predictions"] if ranked else [])],
        "tasks": list(catalog.tasks),
        "snapshot": catalog.version,
        "seq": catalog.seq,
        "partitions": partitions,
        "items": catalog.items_in(tuple(partitions)),
        "dimension": catalog.dimension,
        "metric": catalog.metric,
        "k": k,
        "n_probe": n_probe,
    }


def save_exported(program: ExportedProgram, path: Path, info: dict[str, Any]) -> None:
    """Write an exported model and its description; a file that is there is replaced once the new one is whole."""
    written = path.with_name(f".{path.name}.new.pt2")
    text = json.dumps(info, indent=2, ensure_ascii=False)
    try:
        with warnings.catch_warnings():
            # Rows that lie further apart than they are long are written with what lies between them.
            warnings.filterwarnings("ignore", "No complete tensor found")
            torch.export.save(program, written, extra_files={INFO_FILE: text})
        written.replace(path)
    finally:
        written.unlink(missing_ok=True)


def load_exported(path: str | Path) -> nn.Module:
    """Load a file that `silverray export` wrote, with the ops that it calls.

    Args:
        path: the file.

    Returns:
        A module whose inputs and outputs are those of `ExportedModel.forward`, with predictions where the snapshot has
        several tasks or a scorer; `module_info.json`, an extra file in it, names them.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no exported model, or `path` no path.
    """
    path = as_path("path", path)
    try:
        with path.open("rb") as file:
            return torch.export.load(file).module()
    except (BadZipFile, RuntimeError) as error:
        raise ValueError(f"path: expected a file that `silverray export` wrote, got {path}") from error
