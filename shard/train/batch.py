"""What a training step takes: requests on the user side, impressions on the item side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from silverray.shard.model.tables import keyed_jagged
from silverray.shard.train.jagged import Jagged

if TYPE_CHECKING:
    from torchrec import KeyedJaggedTensor


class Batch(NamedTuple):
    """Requests and their impressions.

    Attributes:
        user: features of R requests, a KeyedJaggedTensor: one key per user feature; a category has one id per request,
            a history up to L.
        items: features of I impressions, likewise (key "item" holds the item's id).
        request: `[I]` int64, the request of each impression, ascending.
        labels: `[I, T]` float32, one column per task.
        times: `[R]` int64 seconds of each request.
    """

    user: KeyedJaggedTensor
    items: KeyedJaggedTensor
    request: Tensor
    labels: Tensor
    times: Tensor


def features_of(columns: Mapping[str, Jagged]) -> KeyedJaggedTensor:
    """Lists of several features over the same rows as one `KeyedJaggedTensor` of int64.

    Raises:
        TablesUnavailable: TorchRec is not installed.
    """
    return keyed_jagged(
        {name: (torch.from_numpy(lists.values), torch.from_numpy(lists.lengths)) for name, lists in columns.items()}
    )
