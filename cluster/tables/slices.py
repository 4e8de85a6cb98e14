"""A batch's requests, split over the ranks of a table group.

Letters: R requests of the batch, C requests of a rank, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torchrec import KeyedJaggedTensor

    from silverray.shard.towers.table import Table


class FeatureSlice(NamedTuple):
    """Features of some requests of a batch, as they travel to a rank.

    Attributes:
        keys: names of the F features.
        ids: int64, feature by feature and in each request by request.
        lengths: `[F, C]` int64, number of ids.
    """

    keys: tuple[str, ...]
    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]

    def columns(self) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
        """Ids and lengths of each feature, as `keyed_jagged` takes them."""
        # Copies, since what has travelled through Ray is read-only.
        ids = torch.split(torch.tensor(self.ids), self.lengths.sum(axis=1).tolist())
        return dict(zip(self.keys, zip(ids, torch.tensor(self.lengths), strict=True), strict=True))


def split_requests(tables: Sequence[Table], features: KeyedJaggedTensor, ranks: int) -> list[FeatureSlice]:
    """Split a batch into as many runs of requests as there are ranks.

    Collectives of ranks with unequal shares need a message more, so all shares have ceil(R / ranks) requests: the last
    ones are filled up with requests that have no ids.

    Args:
        tables: the tables; only their features are taken.
        features: ids of R requests.
        ranks: number of ranks.
    """
    keys = tuple(name for table in tables for name in table.features)
    columns = [features[key] for key in keys]
    share = -(-features.stride() // ranks)
    lengths = np.zeros((len(keys), ranks * share), dtype=np.int64)
    lengths[:, : features.stride()] = [column.lengths().numpy() for column in columns]
    of_ranks = lengths.reshape(len(keys), ranks, share)
    edges = of_ranks.sum(axis=2).cumsum(axis=1)[:, :-1]
    ids = [np.split(column.values().numpy(), edge) for column, edge in zip(columns, edges, strict=True)]
    return [
        FeatureSlice(keys, np.concatenate([of_feature[rank] for of_feature in ids]), of_ranks[:, rank])
        for rank in range(ranks)
    ]
