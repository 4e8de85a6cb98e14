"""int8 codes."""

import pytest
import torch

from silverray.kernels.codes import quantize_rows


@pytest.mark.parametrize("d", [1, 33, 128])
def test_codes_restore_rows_to_half_a_step_and_zeros_exactly(d: int) -> None:
    rows = torch.randn(100, d, generator=torch.Generator().manual_seed(0))
    rows[7] = 0
    rows[8] = 1e-42
    rows[9] = 3e38
    codes = quantize_rows(rows)
    restored = codes.values.float() * codes.scales[:, None]
    assert ((restored - rows).abs() <= codes.scales[:, None] * 0.5001 + 1e-37).all()
    assert codes.values[7].abs().sum() == 0
    assert codes.scales[7] == 0
    assert (codes.values[9] == 127).all()
    assert (codes.values.abs().amax(1)[10:] == 127).all()


def test_a_row_without_elements_has_scale_zero() -> None:
    codes = quantize_rows(torch.zeros(3, 0))
    assert codes.values.shape == (3, 0)
    assert codes.scales.tolist() == [0, 0, 0]
