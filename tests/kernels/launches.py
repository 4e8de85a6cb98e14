"""Launch every Triton kernel with the compile-time arguments that serving gives it, on small tensors."""

import torch

from silverray.kernels.codes import quantize_rows
from silverray.kernels.gpu import programs, refine, retrieve, scan, scores, survivors
from silverray.kernels.retrieve import Arguments

from .cases import make_lists

KERNELS = {
    "_evaluate", "_evaluate_lists", "_list_bits", "_plan_tasks", "_rank", "_scan", "_score_candidates", "_score_pairs",
    "_select",
}  # fmt: skip


def launch_all() -> None:
    """Of the usual dimensions, and of some that need padding, in batches; and one request alone."""
    for dimensions, dtype in ((128, torch.float32), (128, torch.bfloat16), (50, torch.float32), (1024, torch.float32)):
        _launch(dimensions, dtype, 64)
    _launch(128, torch.float32, 1)


def _launch(dimensions: int, dtype: torch.dtype, queries: int) -> None:
    lists = make_lists(5_000, dimensions, 16, queries, 4, dtype=dtype)
    bits = programs.launch(lists.planes, lists.programs)
    programs.launch_count(lists.planes, lists.programs, 5_000)
    scan.launch(*lists.scan, 400)
    refine.launch(lists.vectors, lists.keys, lists.queries, lists.probes, 100)
    scores.launch(lists.vectors, lists.queries, lists.filters, lists.filters)
    survivors.launch(lists.vectors, lists.keys, bits, lists.filters, lists.queries, 100)
    some = torch.zeros(queries, dtype=torch.int64)
    retrieve.launch(
        *Arguments(
            lists.codes, lists.scales, lists.vectors, lists.keys, lists.offsets, lists.offsets.diff(), lists.planes,
            lists.programs, lists.filters, lists.queries, lists.centroids, *quantize_rows(lists.centroids),
            some.bool(), some, some, some, 4_096, 400, 100, 4_096,
        )
    )  # fmt: skip
