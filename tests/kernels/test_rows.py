"""Rows and planes laid out for the kernels."""

import pytest
import torch

from silverray.kernels.rows import aligned_planes, aligned_rows


@pytest.mark.parametrize("dtype", [torch.int8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("d", [1, 16, 31, 32, 64, 65, 300])
def test_rows_begin_on_cache_lines_and_keep_their_values(dtype: torch.dtype, d: int) -> None:
    wide = torch.randint(-100, 100, (37, 2 * d + 3), generator=torch.Generator().manual_seed(d)).to(dtype)
    for rows in (wide[:, :d].contiguous(), wide[1:, 3 : d + 3], wide[:, 1 : 2 * d + 1 : 2], wide[:1, :d].expand(5, d)):
        laid = aligned_rows(rows)
        step = 32 if dtype == torch.bfloat16 else 64
        assert torch.equal(laid, rows)
        assert laid.data_ptr() % step == 0
        assert laid.stride(0) * laid.element_size() % step == 0
        assert laid.stride(1) == 1
        gaps = laid.as_strided((len(laid), laid.stride(0)), (laid.stride(0), 1))[:, d:]
        assert (gaps == 0).all()
        assert aligned_rows(laid) is laid


def test_rows_at_the_end_of_their_memory_are_copied_where_a_whole_row_would_pass_it() -> None:
    memory = torch.zeros(4 * 64 + 64, dtype=torch.int8)
    start = -memory.data_ptr() % 64
    cut = memory[start : start + 3 * 64 + 10].clone()
    rows = cut.as_strided((4, 10), (64, 1))
    laid = aligned_rows(rows)
    assert laid.untyped_storage().nbytes() >= 4 * 64
    assert torch.equal(laid, rows)


@pytest.mark.parametrize("words", [1, 7, 8, 9, 24])
def test_planes_are_packed_lines_of_eight_words(words: int) -> None:
    wide = torch.randint(-9, 9, (5, words + 16), generator=torch.Generator().manual_seed(words))
    for planes in (wide[:, :words].contiguous(), wide[:, :words], wide[:, 1 : words + 1], wide[::2, :words]):
        laid = aligned_planes(planes)
        assert torch.equal(laid[:, :words], planes)
        assert laid.data_ptr() % 64 == 0
        assert laid.shape[1] % 8 == 0
        assert laid.is_contiguous()
        assert (laid[:, words:] == 0).all()
        assert aligned_planes(laid) is laid
