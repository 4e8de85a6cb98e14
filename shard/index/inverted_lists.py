"""Inverted lists: the items of the loaded partitions, cluster by cluster.

In host memory, rows of codes and vectors begin on cache lines and planes are a multiple of 8 words long.

Letters: N slots, D dimensions, C clusters, R planes, W words.
"""

from __future__ import annotations

from torch import Tensor, nn

from silverray.kernels.codes import quantize_rows
from silverray.kernels.rows import aligned_planes, aligned_rows
from silverray.shard.schema.columns import Columns


class InvertedLists(nn.Module):
    """The tensors that a search reads.

    Args:
        centroids: `[C, D]` float32.
        sizes: `[C]` int64 items of each cluster in the whole snapshot, whatever part is loaded here.
        offsets: `[C + 1]` int64; cluster c holds slots `offsets[c]` to `offsets[c + 1]`, end excluded.
        keys: `[N]` int64 item keys; -1 in a slot that is free, which is not `live` either. What else a free slot
            holds is finite and means nothing.
        codes: `[N, D]` int8 residual codes.
        scales: `[N]` float32 scale of each code.
        vectors: `[N, D]` float32 or bfloat16 item cache; on the CPU, pinned, where the rest is on a GPU and the
            `Placement` says so.
        planes: `[R, W]` int64 filter bits; plane 0 is `live`.
        columns: stored values of the filterable fields, by slot.
        items: how many slots are not free; None where all hold an item.
    """

    centroids: Tensor
    centroid_codes: Tensor
    centroid_scales: Tensor
    sizes: Tensor
    offsets: Tensor
    keys: Tensor
    codes: Tensor
    scales: Tensor
    vectors: Tensor
    planes: Tensor

    def __init__(
        self,
        *,
        centroids: Tensor,
        sizes: Tensor,
        offsets: Tensor,
        keys: Tensor,
        codes: Tensor,
        scales: Tensor,
        vectors: Tensor,
        planes: Tensor,
        columns: Columns,
        items: int | None = None,
    ) -> None:
        super().__init__()
        coded = quantize_rows(centroids)
        self.register_buffer("centroids", aligned_rows(centroids))
        self.register_buffer("centroid_codes", aligned_rows(coded.values))
        self.register_buffer("centroid_scales", coded.scales)
        self.register_buffer("sizes", sizes)
        self.register_buffer("offsets", offsets)
        self.register_buffer("keys", keys)
        self.register_buffer("codes", aligned_rows(codes))
        self.register_buffer("scales", scales)
        self.register_buffer("vectors", aligned_rows(vectors))
        self.register_buffer("planes", aligned_planes(planes))
        self.columns = columns.to(centroids.device)
        self.items = len(keys) if items is None else items

    def __len__(self) -> int:
        """N, free slots included."""
        return self.keys.shape[0]
