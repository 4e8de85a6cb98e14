"""What the kernels are compiled for stands at the head of every report."""

from silverray.kernels.cpu.simd import implementation


def pytest_report_header() -> str:
    return f"int8 product sum: {implementation()}"
