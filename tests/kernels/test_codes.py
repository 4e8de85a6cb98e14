"""int8 codes."""

import numpy as np
import pytest
import torch
from divisions import OnDevice

from silverray.kernels.codes import quantize_rows

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


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


def test_a_scale_is_a_quotient_and_no_product_with_a_reciprocal() -> None:
    # In float32, x / 127 and x * (1 / 127) are neighbours for these.
    largest = np.array([9, 13, 36, 175, 350], np.float32)
    scales = quantize_rows(torch.tensor(largest, device=DEVICE)[:, None]).scales.cpu()
    np.testing.assert_array_equal(scales.numpy(), largest / np.float32(127))
    np.testing.assert_array_equal(scales[:2].numpy().view(np.int32), [0x3D912245, 0x3DD1A347])
    assert (largest * (np.float32(1) / np.float32(127)) != scales.numpy()).all()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_rows_are_divided_on_their_own_device(device: str) -> None:
    with OnDevice():
        quantize_rows(torch.ones(3, 8, device=device))
    for wrong in (127, torch.tensor(127.0)):
        with pytest.raises(AssertionError, match="div by"), OnDevice():
            torch.ones(3, device="meta") / wrong
