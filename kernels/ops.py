"""PyTorch ops of this package: one definition from a reference, its kernels and the shape of the result."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

import torch

_LIBRARY = torch.library.Library("silverray", "DEF")


def define(
    name: str,
    reference: Callable[..., Any],
    *,
    fake: Callable[..., Any],
    cpu: Callable[..., Any] | None = None,
    cuda: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Define the op `silverray::name`.

    Args:
        name: of the op.
        reference: plain PyTorch; its signature is the op's, and it serves every device without a kernel.
        fake: called with the same arguments by name; returns tensors of the result's shape and dtype, for
            `torch.compile` and `torch.export`.
        cpu: the kernel for CPUs; called with the same arguments, in order.
        cuda: the kernel for NVIDIA GPUs, likewise.

    Returns:
        The op, which takes its arguments in order.
    """
    names = list(inspect.signature(reference).parameters)
    _LIBRARY.define(name + torch.library.infer_schema(reference, mutates_args=()))
    _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    for kernel, device in ((cpu, "CPU"), (cuda, "CUDA")):
        if kernel is not None:
            _LIBRARY.impl(name, kernel, device)
    torch.library.register_fake(
        f"silverray::{name}", lambda *arguments: fake(**dict(zip(names, arguments, strict=True))), lib=_LIBRARY
    )
    op: Callable[..., Any] = getattr(torch.ops.silverray, name).default
    return op


def lazily(path: str) -> Callable[..., Any]:
    """A function that is imported when it is first called: a CPU does without Triton, a GPU without Numba.

    Args:
        path: `module.function` below `silverray.kernels`.
    """
    module, _, name = path.rpartition(".")
    function = cache(lambda: getattr(import_module(f"silverray.kernels.{module}"), name))
    return lambda *arguments: function()(*arguments)
