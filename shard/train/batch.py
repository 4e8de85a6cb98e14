"""What a training step takes: requests on the user side, impressions on the item side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from silverray.shard.train.jagged import Jagged

if TYPE_CHECKING:
    from torchrec import KeyedJaggedTensor


class Batch(NamedTuple):
    """Requests and their impressions.

    Attributes:
        user: features of R requests, a KeyedJaggedTensor: one key per user feature; a category has one id per request, a
            history up to L.
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


def keyed_jagged(features: Mapping[str, Jagged]) -> KeyedJaggedTensor:
    """Lists of several features over the same rows as one `KeyedJaggedTensor`: int64 values, int32 lengths.

    Raises:
        RuntimeError: TorchRec is not installed.
    """
    try:
        from torchrec import KeyedJaggedTensor
    except ImportError as error:
        raise RuntimeError(
            "training needs TorchRec: pip install --no-deps -r requirements/torchrec-cpu.txt "
            f"(requirements/torchrec-cuda.txt beside a CUDA build of torch): {error}"
        ) from error
    return KeyedJaggedTensor(
        keys=list(features),
        values=torch.from_numpy(np.concatenate([lists.values for lists in features.values()])),
        lengths=torch.from_numpy(np.concatenate([lists.lengths for lists in features.values()]).astype(np.int32)),
    )
