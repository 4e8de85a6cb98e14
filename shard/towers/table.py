"""An embedding table: what a model says of it, without its weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from torch import nn

SCALE_BYTES = 4
"""Bytes of a row in int8 beside its codes: its scale and its least value, in fp16."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")
_TAKEN = frozenset(dir(nn.ModuleDict()))
_ALIGNED = 4
"""FBGEMM looks rows up four numbers at a time and takes no others."""


@dataclass(frozen=True)
class Table:
    """An embedding table.

    Attributes:
        name: unique in a model, and the name of its file.
        rows: N; ids are 0 to N - 1, and 0 stands for unknown.
        dimension: D, a multiple of 4.
        features: the features that are looked up in it.
        pooling: how a request's rows become one vector; that of a request without any is zero.

    Raises:
        ValueError: a value is none of these.
    """

    name: str
    rows: int
    dimension: int
    features: tuple[str, ...]
    pooling: Literal["mean", "sum"]

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name: expected letters, digits, _ and -, got {self.name!r}")
        if self.name in _TAKEN:
            raise ValueError(f"name: expected none of what PyTorch's modules have already, got {self.name!r}")
        if self.rows < 1:
            raise ValueError(f"{self.name}.rows: expected at least 1, got {self.rows}")
        if self.dimension < 1 or self.dimension % _ALIGNED:
            raise ValueError(f"{self.name}.dimension: expected a multiple of {_ALIGNED}, got {self.dimension}")
        if not self.features or len(set(self.features)) < len(self.features):
            raise ValueError(f"{self.name}.features: expected distinct names, got {list(self.features)}")
        if self.pooling not in ("mean", "sum"):
            raise ValueError(f"{self.name}.pooling: expected mean or sum, got {self.pooling!r}")

    @property
    def bytes(self) -> int:
        """Size in fp32."""
        return self.rows * self.dimension * 4

    @property
    def int8_bytes(self) -> int:
        """Size in int8, with the scale and the least value of each row."""
        return self.rows * (self.dimension + SCALE_BYTES)
