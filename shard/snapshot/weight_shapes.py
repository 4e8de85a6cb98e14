"""Whether weights have the sizes that a description gives them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


def require_shapes(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless weights are those of a module, which may stand on the meta device."""
    wanted = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    got = {name: list(tensor.shape) for name, tensor in weights.items()}
    for name in sorted({*wanted, *got}):
        if wanted.get(name) != got.get(name):
            raise ValueError(f"{name}: expected {wanted.get(name)}, got {got.get(name)}")
