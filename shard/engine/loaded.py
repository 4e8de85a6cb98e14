"""The loaded index: partitions in memory with their retrieval, which an engine answers from."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch

from silverray.shard.index.loader import LoadedPartitions
from silverray.shard.model.cuda_graphs import CudaGraphs
from silverray.shard.model.retrieval import RetrievalModel
from silverray.shard.model.search import Search


class LoadedIndex(NamedTuple):
    """Partitions in memory, ready to be searched."""

    loaded: LoadedPartitions
    retrieval: RetrievalModel
    search: Search

    @classmethod
    def of(cls, loaded: LoadedPartitions) -> Self:
        """Make the retrieval, and capture every graph that a search may need on a GPU."""
        retrieval = RetrievalModel(loaded.lists, loaded.curve).eval()
        if not retrieval.lists.keys.is_cuda:
            return cls(loaded, retrieval, Search(retrieval))
        graphs = CudaGraphs(retrieval)
        with torch.inference_mode():
            graphs.warm_up()
        return cls(loaded, retrieval, Search(retrieval, graphs))
