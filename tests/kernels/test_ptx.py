"""What Triton compiles for sm_90 gives the references' results: its PTX is run on the CPU, instruction by instruction.

The interpreter runs kernels as Python and so cannot show what the compiler makes of them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import PATIENCE_S

pytest.importorskip("triton")

from .ptx.checks import CHECKS, MUTANTS


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Any:
    # A process of its own: here Triton interprets kernels, and there it must not find a GPU.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    cache = str(tmp_path_factory.mktemp("triton"))
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.ptx", "0"],
        cwd=Path(__file__).parents[2],
        env={**environment, "TRITON_CACHE_DIR": cache, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CHECKS)
def test_ptx_gives_what_the_reference_gives(name: str, report: Any) -> None:
    assert report["errors"][name] is None


@pytest.mark.parametrize("name", MUTANTS)
def test_a_kernel_whose_stack_is_one_value_is_found_out(name: str, report: Any) -> None:
    assert "Arrays are not equal" in report["errors"][name]
