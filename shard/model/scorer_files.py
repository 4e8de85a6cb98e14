"""A scorer in a model directory: bfloat16 weights in a file, and its description in `module_info.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from silverray.shard.api import SnapshotError
from silverray.shard.model.item_features import ItemFeatures
from silverray.shard.model.scorers import SCORERS, DotProduct, Scorer
from silverray.shard.schema.schema import Schema
from silverray.shard.snapshot.files import MODEL, SCORER_WEIGHTS, SnapshotFiles
from silverray.shard.snapshot.weight_shapes import require_shapes

INFO_FILE = "module_info.json"
OVERARCH = "overarch"


class OverArch(NamedTuple):
    """A scorer and what it reads of the items' fields; `name` is its own, for reports."""

    name: str
    scorer: Scorer
    features: ItemFeatures


INNER_PRODUCT = OverArch("dot_product", DotProduct().eval(), ItemFeatures())
"""What stands where no scorer was learned."""


def save_overarch(model_dir: Path, name: str, sizes: dict[str, int], scorer: Scorer, features: ItemFeatures) -> None:
    """Add a scorer to a model directory.

    Args:
        model_dir: has a `module_info.json` already.
        name: of the scorer's class in `SCORERS`.
        sizes: its arguments beside tasks, dimension and features.
        scorer: the trained scorer.
        features: what it reads.
    """
    file = model_dir / INFO_FILE
    info = json.loads(file.read_text(encoding="utf-8"))
    info[OVERARCH] = {"scorer": name, "sizes": sizes, "item_features": features.to_document()}
    weights = {key: tensor.to(torch.bfloat16).contiguous() for key, tensor in scorer.state_dict().items()}
    save_file(weights, model_dir / SCORER_WEIGHTS)
    file.write_text(json.dumps(info, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_overarch(files: SnapshotFiles, schema: Schema) -> OverArch:
    """Load a snapshot's scorer.

    Weights are rounded to bfloat16 in the file, and computed with in float32: a bfloat16 sum would depend on
    the batch that a request shares.

    Returns:
        The scorer in evaluation mode on the CPU; the inner product where the snapshot has none.

    Raises:
        SnapshotError: the description or the weights are damaged or do not fit each other.
    """
    info: dict[str, Any] = files.manifest["model"] or {}
    if OVERARCH not in info:
        return INNER_PRODUCT
    weights = files.tensors(f"{MODEL}/{SCORER_WEIGHTS}")
    try:
        described = info[OVERARCH]
        features = ItemFeatures.of(described["item_features"]).check(schema)
        made = (described["scorer"], len(info["tasks"]), info["dimension"], features.width, described["sizes"])
        # Sizes are believed once the weights have them: the room for others may not be there.
        with torch.device("meta"):
            require_shapes(make_scorer(*made), weights)
        scorer = make_scorer(*made)
        scorer.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise SnapshotError(f"{files.path / MODEL / INFO_FILE}: no usable scorer: {reason}") from error
    return OverArch(described["scorer"], scorer.eval().requires_grad_(False), features)


def make_scorer(name: str, tasks: int, dimension: int, features: int, sizes: dict[str, int]) -> Scorer:
    """An untrained scorer.

    Raises:
        ValueError: there is none of that name.
        TypeError: a size is none of its arguments.
    """
    if name not in SCORERS:
        raise ValueError(f"scorer: expected one of {', '.join(SCORERS)}, got {name!r}")
    return SCORERS[name](tasks, dimension, features, **sizes)
