"""Vectors of length 1: of tiny and of huge ones, and of those that have it already."""

import numpy as np
import pytest

from silverray.shard.schema.vectors import ZeroVectorError, to_unit_length


@pytest.mark.parametrize("scale", [1e-43, 1e-30, 1.0, 1e37])
def test_unit_length_of_tiny_and_huge_vectors(scale: float) -> None:
    unit = to_unit_length(np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32) * np.float32(scale))
    np.testing.assert_allclose(np.linalg.norm(unit.astype(np.float64), axis=1), 1, atol=1e-6)
    with pytest.raises(ZeroVectorError) as error:
        to_unit_length(np.array([[1, 0], [0, 0]], np.float32))
    assert error.value.row == 1


def test_scaling_twice_is_scaling_once() -> None:
    """Length 1 in float32 is not length 1 in float64: few dimensions show it."""
    rng = np.random.default_rng(0)
    for dimension in (1, 2, 3, 16, 128):
        once = to_unit_length(rng.standard_normal((20_000, dimension)).astype(np.float32))
        assert to_unit_length(once).tobytes() == once.tobytes()
