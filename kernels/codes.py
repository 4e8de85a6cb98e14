"""int8 codes of residuals, one scale per row. Letters: N rows, D dimensions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from silverray.kernels.quotients import quotient


class Codes(NamedTuple):
    """Quantised rows: `values` `[N, D]` int8 and `scales` `[N]` float32; a row is about `scales · values`."""

    values: Tensor
    scales: Tensor


def quantize_rows(rows: Tensor) -> Codes:
    """Quantise each row to int8 with a scale of its own: `round(row / scale)`, `scale = max|row| / 127`.

    Items are quantised as residuals to their cluster's centroid, which removes most of the recall ceiling of int8:
    the centroid's part of the score is known exactly from the probe.

    Args:
        rows: `[N, D]` float32, finite.

    Returns:
        `Codes`, the same bits on every device; a row of zeros has scale 0.

    Raises:
        ValueError: a wrong dtype or shape.

    Example:
        >>> quantize_rows(torch.tensor([[1.0, -0.5]])).values
        tensor([[127, -64]], dtype=torch.int8)
    """
    if rows.dtype != torch.float32 or rows.dim() != 2:
        raise ValueError(f"rows: expected [N, D] float32, got {list(rows.shape)} {rows.dtype}")
    scales = quotient(rows.abs().amax(dim=1), 127) if rows.shape[1] else rows.new_zeros(len(rows))
    inverse = torch.where(scales > 0, 1 / scales, 0)
    # A denormal scale has an infinite inverse: such a row is as good as zero.
    inverse = torch.where(inverse.isfinite(), inverse, 0)
    values = (rows * inverse[:, None]).round().clamp(-127, 127).to(torch.int8)
    return Codes(values, scales)
