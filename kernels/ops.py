"""PyTorch ops of this package: one definition from a reference, its kernels and the shape of the result."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, get_type_hints

import torch

_LIBRARY = torch.library.Library("silverray", "DEF")


def define(
    name: str,
    reference: Callable[..., Any],
    *,
    fake: Callable[..., Any],
    arguments: type[Any] | None = None,
    cpu: Callable[..., Any] | None = None,
    cuda: Callable[..., Any] | None = None,
) -> Callable[..., Any]:
    """Define the op `silverray::name`.

    Args:
        name: of the op.
        reference: plain PyTorch; it serves every device without a kernel. Its signature is the op's.
        fake: called with the same arguments by name; returns tensors of the result's shape and dtype, for
            `torch.compile` and `torch.export`.
        arguments: a named tuple of what the op takes, where that is too much for a signature: then the reference and
            the kernels take its parts as `*arguments`.
        cpu: the kernel for CPUs; called with the same arguments, in order.
        cuda: the kernel for NVIDIA GPUs, likewise.

    Returns:
        The op, which takes its arguments in order.
    """
    spelled = reference if arguments is None else _spelled_out(reference, arguments)
    names = list(inspect.signature(spelled).parameters)
    _LIBRARY.define(name + torch.library.infer_schema(spelled, mutates_args=()))
    _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    for kernel, device in ((cpu, "CPU"), (cuda, "CUDA")):
        if kernel is not None:
            _LIBRARY.impl(name, kernel, device)
    torch.library.register_fake(
        f"silverray::{name}", lambda *arguments: fake(**dict(zip(names, arguments, strict=True))), lib=_LIBRARY
    )
    op: Callable[..., Any] = getattr(torch.ops.silverray, name).default
    return op


def _spelled_out(reference: Callable[..., Any], arguments: type[Any]) -> Callable[..., Any]:
    """A function with the signature that a reference would have if it took the parts of a named tuple one by one."""
    parts = [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=kind)
        for name, kind in get_type_hints(arguments).items()
    ]
    returned = get_type_hints(reference)["return"]

    def spelled(*given: Any) -> Any:
        return reference(*given)

    spelled.__signature__ = inspect.Signature(parts, return_annotation=returned)  # type: ignore[attr-defined]
    return spelled


def lazily(path: str) -> Callable[..., Any]:
    """A function that is imported when it is first called: a CPU does without Triton, a GPU without Numba.

    Args:
        path: `module.function` below `silverray.kernels`.
    """
    module, _, name = path.rpartition(".")
    function = cache(lambda: getattr(import_module(f"silverray.kernels.{module}"), name))
    return lambda *arguments: function()(*arguments)
