"""Division by a number that gives the same bits on every device.

On a GPU PyTorch multiplies by the reciprocal where the divisor is a Python number or lies on the host, and one result
in 25 is another one. It divides by a tensor on the device.
"""

from __future__ import annotations

from torch import Tensor


def divisor(x: Tensor, number: float) -> Tensor:
    """A number by which `x` can be divided: `[]`, of the dtype of `x` and on its device."""
    return x.new_full((), number)


def quotient(x: Tensor, number: float) -> Tensor:
    """Divide by a number, each quotient rounded once.

    Args:
        x: of a floating-point dtype.
        number: other than 0; it is rounded to that dtype.

    Returns:
        `x / number`, the same bits on every device.

    Example:
        >>> import torch
        >>> quotient(torch.tensor([127.0, 254.0]), 127)
        tensor([1., 2.])
    """
    return x / divisor(x, number)
