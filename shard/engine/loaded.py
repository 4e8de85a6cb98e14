"""Partitions in memory with the model over them: what an engine answers from."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch

from silverray.shard.index.loader import LoadedPartitions
from silverray.shard.model.cuda_graphs import CudaGraphs
from silverray.shard.model.retrieval import RetrievalModel
from silverray.shard.model.verification import Search


class Prepared(NamedTuple):
    """Partitions in memory, ready to be searched."""

    loaded: LoadedPartitions
    model: RetrievalModel
    search: Search

    @classmethod
    def of(cls, loaded: LoadedPartitions) -> Self:
        """Make the model, and capture every graph that a search may need on a GPU."""
        model = RetrievalModel(loaded.lists, loaded.curve).eval()
        if not model.lists.keys.is_cuda:
            return cls(loaded, model, Search(model))
        graphs = CudaGraphs(model)
        with torch.inference_mode():
            graphs.warm_up()
        return cls(loaded, model, Search(model, graphs))
