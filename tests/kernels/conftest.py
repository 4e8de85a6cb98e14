"""What the kernels are compiled for stands at the head of every report."""

import os

import torch

from silverray.kernels.simd import implementation

# Triton reads this when a kernel is defined: without a GPU its interpreter runs them, on the CPU.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_report_header() -> str:
    return f"int8 product sum: {implementation()}"
