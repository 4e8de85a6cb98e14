"""Every Triton kernel compiles for sm_90 without a GPU, and keeps all it holds in registers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from processes import PATIENCE_S

from silverray.kernels.programs import MAX_STACK

from .launches import KERNELS

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def needs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, int]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.sm90"],
        cwd=Path(__file__).parents[2],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, int]] = json.loads(done.stdout)
    return found


def test_every_kernel_compiles_for_sm_90_and_spills_nothing(needs: dict[str, dict[str, int]]) -> None:
    assert {name.split()[0] for name in needs} == KERNELS
    for name, used in needs.items():
        assert used["LOCAL"] == used["STACK"] == 0, (name, used)
        assert 0 < used["REG"] <= 255


@pytest.mark.parametrize("kernel", ["_evaluate", "_evaluate_lists"])
def test_filters_carry_their_whole_stack_through_the_loop(kernel: str, needs: dict[str, dict[str, int]]) -> None:
    carried = [used["CARRIED"] for name, used in needs.items() if name.split()[0] == kernel]
    assert carried
    assert min(carried) >= MAX_STACK


def test_no_atomic_waits_for_what_was_written_before(needs: dict[str, dict[str, int]]) -> None:
    assert {name: used["FENCED"] for name, used in needs.items() if used["FENCED"]} == {}
