"""What a training step takes: requests on the user side, impressions on the item side."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

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
