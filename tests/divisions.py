"""What is told of PyTorch's divisions: a GPU multiplies by the reciprocal of a divisor that does not lie on it."""

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DIVISIONS = {"div", "div_", "true_divide", "true_divide_", "floor_divide", "floor_divide_", "mean"}


class OnDevice(TorchDispatchMode):
    """Refuses to divide a tensor by a number, or by a tensor of another device; a mean does the former."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, op: Any, types: Any, arguments: tuple[Any, ...] = (), options: dict[str, Any] | None = None
    ) -> Any:
        name = op.overloadpacket.__name__
        if name in DIVISIONS and arguments[0].is_floating_point():
            assert name != "mean", "a mean multiplies by a reciprocal"
            assert isinstance(arguments[1], Tensor), f"{name} by the number {arguments[1]}"
            assert arguments[1].device == arguments[0].device, f"{name} by a tensor of {arguments[1].device}"
        return op(*arguments, **(options or {}))
