"""How a snapshot is to be loaded, as callers say it: checked before anything is read."""

from __future__ import annotations

from collections.abc import Collection
from math import isfinite
from pathlib import Path
from typing import Any, get_args

import torch

from silverray.kernels.rows import LANES
from silverray.shard.api import MAX_FEATURES_K, SnapshotError, shown
from silverray.shard.arguments import is_whole
from silverray.shard.index.placement import ItemCache
from silverray.shard.value.settings import ValueSettings

MAX_THREADS = 4_096
"""More than any machine has processors."""


def choose_device(name: Any) -> torch.device:
    """The device that a shard computes on.

    Args:
        name: "cpu", "cuda", "cuda:N", or "auto" for CUDA where there is one.

    Raises:
        ValueError: it is something else, or there is no such GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device: expected 'auto', 'cpu', 'cuda' or 'cuda:N', got {shown(name)}")
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise ValueError(f"device: {shown(str(name))} is not there: PyTorch finds {count} CUDA devices")
    return device


def check_loading(partitions: Any, threads: Any, item_cache: Any, slack: Any, value: Any, window: Any) -> None:
    """Check the other arguments of `Engine.open`.

    Raises:
        ValueError: the message names the first that is none of what is expected.
    """
    if partitions is not None:
        _check_partitions(partitions)
    if threads is not None and not (is_whole(threads) and 1 <= threads <= MAX_THREADS):
        raise ValueError(f"threads: expected 1 to {MAX_THREADS}, got {shown(threads)}")
    if item_cache not in get_args(ItemCache):
        raise ValueError(f"item_cache: expected one of {', '.join(get_args(ItemCache))}, got {shown(item_cache)}")
    number = isinstance(slack, int | float) and not isinstance(slack, bool)
    if slack is not None and not (number and isfinite(slack) and slack >= 0):
        raise ValueError(f"slack: expected 0 or more free slots for each item, got {shown(slack)}")
    if not isinstance(value, ValueSettings):
        raise ValueError(f"value: expected ValueSettings, got {shown(value)}")
    if not is_whole(window) or not 1 <= window <= MAX_FEATURES_K:
        raise ValueError(f"window: expected 1 to {MAX_FEATURES_K}, got {shown(window)}")


def check_dimension(path: Path, dimension: int, device: torch.device) -> None:
    """Check that a device has kernels for vectors of a snapshot.

    Raises:
        SnapshotError: it has none.
    """
    if device.type != "cpu":
        return
    from silverray.kernels.cpu.simd import MAX_CHUNKS  # a GPU does without Numba

    if dimension > (most := LANES * MAX_CHUNKS):
        raise SnapshotError(f"{path}: has {dimension} dimensions; a CPU searches at most {most}")


def _check_partitions(partitions: Any) -> None:
    if not isinstance(partitions, Collection) or isinstance(partitions, str | bytes):
        raise ValueError(f"partitions: expected a list of numbers, got {shown(partitions)}")
    if not len(partitions):
        raise ValueError("partitions: expected at least one, got none")
    seen = set()
    for number in partitions:
        if not is_whole(number):
            raise ValueError(f"partitions: expected whole numbers, got {shown(number)}")
        if number in seen:
            raise ValueError(f"partitions: expected each once, got {number} twice")
        seen.add(number)
