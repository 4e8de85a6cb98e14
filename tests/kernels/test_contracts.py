"""What the operators refuse, and what PyTorch asks of registered operators."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from silverray.kernels.bits import transpose_bits
from silverray.kernels.centroids import score_centroids
from silverray.kernels.codes import quantize_rows
from silverray.kernels.probes import choose_probes
from silverray.kernels.programs import count_passing, evaluate_programs
from silverray.kernels.refine import refine
from silverray.kernels.retrieve import Arguments, Retrieved
from silverray.kernels.retrieve import retrieve as retrieve_arguments
from silverray.kernels.scan import exact_scan, scan
from silverray.kernels.scores import exact_scores
from silverray.kernels.survivors import score_survivors
from silverray.kernels.topk import top_k

from .cases import make_lists
from .test_probes import make as demands
from .test_retrieve import arguments_of

LISTS = make_lists(130, 24, 6, 5, 3, seed=1)
CANDIDATES = torch.arange(50).view(5, 10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: top_k(torch.zeros(3), torch.zeros(3).long(), 1), "scores: expected"),
        (lambda: top_k(torch.zeros(1, 3), torch.zeros(1, 2).long(), 1), "keys: expected"),
        (lambda: top_k(torch.zeros(1, 3), torch.zeros(1, 3).long(), -1), "k: expected"),
        (lambda: evaluate_programs(torch.zeros(2, 2), torch.zeros(1, 1).int()), "planes: expected"),
        (lambda: evaluate_programs(torch.zeros(2, 2).long(), torch.zeros(1, 1)), "programs: expected"),
        (lambda: count_passing(torch.zeros(2, 2).long(), torch.zeros(1, 1), 1), "programs: expected"),
        (lambda: count_passing(torch.zeros(2, 2).long(), torch.zeros(1, 1).int(), 129), "slots: expected 0 to 128"),
        (lambda: quantize_rows(torch.zeros(2, 2).double()), "rows: expected"),
        (lambda: transpose_bits(torch.zeros(2, 2).long(), 64), "rows: expected"),
        (lambda: exact_scores(torch.zeros(2, 2), torch.zeros(1, 3), torch.zeros(1), torch.zeros(1)), "queries: exp"),
        (lambda: exact_scores(torch.zeros(2, 2), torch.zeros(1, 2), torch.zeros(1), torch.zeros(2)), "slots: expect"),
    ],
)
def test_wrong_shapes_and_types_are_refused_by_name(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


SCAN = ("codes", "scales", "keys", "offsets", "planes", "programs", "filters", "queries", "probes", "centroid_scores")
EXACT = ("vectors", "keys", "offsets", "planes", "programs", "filters", "queries", "probes")
CHOOSE = ("scores", "sizes", "offsets", "planes", "programs", "filters", "least", "visit", "passing")
REFINE = ("vectors", "keys", "queries", "candidates")
SURVIVORS = ("vectors", "keys", "bits", "filters", "queries")


def retrieve(*arguments: Tensor | int) -> Retrieved:
    """The op with its arguments in order."""
    return retrieve_arguments(Arguments._make(arguments))


RETRIEVE = arguments_of(LISTS, 1)
OPS = {
    scan: (SCAN, LISTS.scan, (9,)),
    exact_scan: (EXACT, LISTS.exact_scan, (9,)),
    choose_probes: (CHOOSE, demands(LISTS, 1), ()),
    refine: (REFINE, (LISTS.vectors, LISTS.keys, LISTS.queries, CANDIDATES), (9,)),
    score_centroids: (("codes", "scales", "queries"), (LISTS.codes, LISTS.scales, LISTS.queries), ()),
    score_survivors: (SURVIVORS, (LISTS.vectors, LISTS.keys, LISTS.planes, LISTS.filters, LISTS.queries), (9,)),
    retrieve: (Arguments._fields[:-4], RETRIEVE[:-4], RETRIEVE[-4:]),
}
EVERY_ARGUMENT = [(op, name) for op, (names, _, _) in OPS.items() for name in names]


@pytest.mark.parametrize(("op", "name"), EVERY_ARGUMENT, ids=[f"{op.__name__}-{name}" for op, name in EVERY_ARGUMENT])
def test_every_argument_of_another_type_or_number_of_dimensions_is_refused(
    op: Callable[..., object], name: str
) -> None:
    names, arguments, sizes = OPS[op]
    at = names.index(name)
    # Zeros are the same in every type: a kernel that does take them reads nothing outside.
    zeros = torch.zeros_like(arguments[at])
    for wrong in (zeros.to(torch.float64), zeros[..., None]):
        with pytest.raises(ValueError, match=r"\w+: expected"):
            op(*arguments[:at], wrong, *arguments[at + 1 :], *sizes)


def test_ops_pass_torchs_own_checks_of_registered_operators() -> None:
    ops = torch.ops.silverray
    torch.library.opcheck(ops.popcount.default, (LISTS.planes,))
    torch.library.opcheck(ops.top_k.default, (torch.rand(2, 9), torch.arange(18).view(2, 9), 3))
    torch.library.opcheck(ops.evaluate_programs.default, (LISTS.planes, LISTS.programs))
    torch.library.opcheck(ops.count_passing.default, (LISTS.planes, LISTS.programs, 130))
    pairs = torch.tensor([0, 1])
    torch.library.opcheck(ops.exact_scores.default, (torch.rand(2, 4), torch.rand(2, 4), pairs, pairs))


@pytest.mark.parametrize("op", list(OPS), ids=lambda op: op.__name__)
def test_kernels_pass_torchs_own_checks_of_registered_operators(op: Callable[..., object]) -> None:
    _, arguments, sizes = OPS[op]
    torch.library.opcheck(getattr(torch.ops.silverray, op.__name__).default, (*arguments, *sizes))
