"""Binding: what a search reads that stays from call to call is checked and laid out once.

Letters: N slots, D dimensions, C clusters, Q queries, R planes, W words, U programs, L instructions, J lines.
"""

from __future__ import annotations

from importlib import import_module
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from silverray.kernels.checks import check
from silverray.kernels.rows import aligned_planes, aligned_rows


class Index(NamedTuple):
    """What searches read. It may be written in place between two of them; the tensors themselves stay.

    Rows and planes are laid out as `aligned_rows` and `aligned_planes` do it, the others are contiguous.

    Attributes:
        codes: `[N, D]` int8, see `silverray.kernels.scan`, as for `scales`, `keys`, `offsets` and `planes`.
        scales: `[N]` float32.
        vectors: `[N, D]` float32 or bfloat16, see `silverray.kernels.refine`.
        keys: `[N]` int64.
        offsets: `[C + 1]` int64.
        sizes: `[C]` int64, see `silverray.kernels.probes`.
        planes: `[R, W]` int64.
        centroids: `[C, D]` float32.
        centroid_codes: `[C, D]` int8, see `silverray.kernels.centroids`, as for `centroid_scales`.
        centroid_scales: `[C]` float32.
        curve: `[3, J]` float64, see `silverray.kernels.plans`.
    """

    codes: Tensor
    scales: Tensor
    vectors: Tensor
    keys: Tensor
    offsets: Tensor
    sizes: Tensor
    planes: Tensor
    centroids: Tensor
    centroid_codes: Tensor
    centroid_scales: Tensor
    curve: Tensor


class Searched(NamedTuple):
    """The best slots of each query, and what was visited.

    Attributes:
        scores: `[Q, k]` float32, descending; -inf where there are no more.
        slots: `[Q, k]` int64 by (score desc, key asc); -1 where there are no more.
        survivors: `[Q]` bool, see `plan_visits`.
        least: `[Q]` int64, see `choose_probes`, as for `visit` and `passing`.
        visit: `[Q]` int64.
        passing: `[Q]` int64.
    """

    scores: Tensor
    slots: Tensor
    survivors: Tensor
    least: Tensor
    visit: Tensor
    passing: Tensor


class Bound(Protocol):
    """Searches an index that is bound."""

    def __call__(
        self,
        queries: Tensor,
        programs: Tensor,
        filters: Tensor,
        wanted: Tensor,
        n_probe: int,
        few: int,
        keep: int,
        k: int,
    ) -> Searched:
        """Plan, and search as planned: `plan_visits` and `retrieve` in one.

        Args:
            queries: `[Q, D]` float32.
            programs: `[U, L]` int32.
            filters: `[Q]` int64, the program of each query.
            wanted: `[Q]` int64, how many items each query wants.
            n_probe: clusters to visit; -1 lets the plan choose.
            few: where no more slots pass and the plan chooses, all of them are scored.
            keep: candidates of each query.
            k: how many of them to select.

        Raises:
            ValueError: a wrong dtype or shape.
        """
        ...


def bind(index: Index, items: int) -> Bound:
    """Bind an index on a CPU.

    Args:
        index: what is searched.
        items: number of items of which `curve` gives the fraction.

    Raises:
        ValueError: a tensor is of a wrong dtype or shape, or not laid out as a kernel reads it.
    """
    slots, dimensions = index.vectors.shape
    clusters = index.sizes.shape[0]
    check("codes", index.codes, torch.int8, slots, dimensions)
    check("scales", index.scales, torch.float32, slots)
    if index.vectors.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"vectors: expected float32 or bfloat16, got {index.vectors.dtype}")
    check("keys", index.keys, torch.int64, slots)
    check("offsets", index.offsets, torch.int64, clusters + 1)
    check("sizes", index.sizes, torch.int64, clusters)
    check("planes", index.planes, torch.int64, None, None)
    check("centroids", index.centroids, torch.float32, clusters, dimensions)
    check("centroid_codes", index.centroid_codes, torch.int8, clusters, dimensions)
    check("centroid_scales", index.centroid_scales, torch.float32, clusters)
    check("curve", index.curve, torch.float64, 3, None)
    if index.planes.shape[1] * 64 < slots:
        raise ValueError(f"planes: expected words for {slots} slots, got {list(index.planes.shape)}")
    for name, tensor in index._asdict().items():
        if _laid_out(name, tensor) is not tensor:
            raise ValueError(f"{name}: expected rows where a kernel can read them, got {list(tensor.stride())} strides")
    bound: Bound = import_module("silverray.kernels.cpu.bound").BoundIndex(index, items)  # a GPU does without Numba
    return bound


def _laid_out(name: str, tensor: Tensor) -> Tensor:
    if name == "planes":
        return aligned_planes(tensor)
    if name in ("codes", "vectors", "centroids", "centroid_codes"):
        return aligned_rows(tensor)
    return tensor.contiguous()
