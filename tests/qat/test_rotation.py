"""Rotation of many rows, and its gradient."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.formats.rotation import rotate
from hf_quant.qat.rotation import rotate_rows
from hf_quant.qat.straight_through import Rotate


@settings(max_examples=40, deadline=None)
@given(
    size=st.sampled_from([16, 32, 64, 128, 256]),
    rows=st.integers(0, 9),
    blocks=st.integers(1, 3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    seed=st.integers(0, 10**6),
)
def test_every_bit_is_that_of_the_formats(size, rows, blocks, dtype, seed):
    real = torch.randn(rows, 2, size * blocks, generator=torch.Generator().manual_seed(seed)).to(dtype)
    assert torch.equal(rotate_rows(real, size), rotate(real, size))
    turned = real.transpose(0, 1)
    assert torch.equal(rotate_rows(turned, size), rotate(turned, size))


@pytest.mark.parametrize("rows", [1, 2047, 2048, 5000])
def test_many_rows_are_handled_part_by_part_alike(rows):
    real = torch.randn(rows, 64, generator=torch.Generator().manual_seed(rows))
    assert torch.equal(rotate_rows(real, 64), rotate(real, 64))


def test_nan_spoils_its_block_only():
    real = torch.ones(2, 64)
    real[0, 3] = torch.nan
    assert rotate_rows(real, 32).isnan().tolist() == [[True] * 32 + [False] * 32, [False] * 64]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_is_rotated_back(dtype):
    real = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    incoming = torch.randn(3, 64, generator=torch.Generator().manual_seed(1))
    Rotate.apply(real, 32).backward(incoming)
    assert real.grad.dtype is dtype
    assert torch.allclose(real.grad.float(), rotate(incoming, 32), atol=1e-5 if dtype is torch.float32 else 2e-2)
