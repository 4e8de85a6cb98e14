"""Every Triton kernel compiles for sm_90 without a GPU, and keeps all it holds in registers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .launches import KERNELS

pytest.importorskip("triton")


def test_every_kernel_compiles_for_sm_90_and_spills_nothing(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.sm90"],
        cwd=Path(__file__).parents[2],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    usage = json.loads(done.stdout)
    assert {name.split()[0] for name in usage} == KERNELS
    for name, used in usage.items():
        assert used["LOCAL"] == used["STACK"] == 0, (name, used)
        assert 0 < used["REG"] <= 255
