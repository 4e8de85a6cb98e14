"""Placement: which of a shard's arrays lie on the device that computes, and which in host memory."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.cuda._pin_memory_utils import pin_memory, unpin_memory

ItemCache = Literal["device", "host"]


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a shard's arrays go.

    Attributes:
        device: where the shard computes.
        item_cache: where `vectors` lies; "host" is pinned memory that the device reads over the bus. On a CPU both
            are the same.
    """

    device: torch.device
    item_cache: ItemCache = "device"

    def on_host(self, name: str) -> bool:
        """Whether the array `name` of `InvertedLists` lies in host memory."""
        return self.device.type == "cpu" or (name == "vectors" and self.item_cache == "host")

    def put(self, name: str, array: Tensor) -> Tensor:
        """Bring the array `name` to its place.

        Args:
            name: as in `InvertedLists`.
            array: on the CPU, owner of all of its memory.

        Returns:
            A copy on the device, or `array` itself, pinned if another device than the CPU reads it.
        """
        if self.device.type == "cpu" or not self.on_host(name):
            return array.to(self.device)
        memory = array.untyped_storage()
        if memory.nbytes():
            # In place: `Tensor.pin_memory` copies, and rounds the copy's size up to a power of two.
            pin_memory(memory.data_ptr(), memory.nbytes())
            weakref.finalize(array, unpin_memory, memory.data_ptr()).atexit = False
        return array
