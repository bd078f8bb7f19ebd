import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.config.scheme import ROTATIONS
from hf_quant.formats.rotation import rotate


@pytest.mark.parametrize("size", ROTATIONS)
def test_a_rotation_is_an_orthonormal_symmetric_matrix_of_equal_magnitudes(size):
    matrix = rotate(torch.eye(size), size)
    assert torch.equal(matrix, matrix.t())
    torch.testing.assert_close(matrix @ matrix, torch.eye(size))
    torch.testing.assert_close(matrix.abs(), torch.full((size, size), size**-0.5))


@settings(deadline=None, derandomize=True, max_examples=25)
@given(size=st.sampled_from(ROTATIONS[:3]), blocks=st.integers(1, 4), rows=st.integers(1, 5), seed=st.integers(0, 99))
def test_products_of_rotated_vectors_are_those_of_the_vectors(size, blocks, rows, seed):
    draw = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(rows, size * blocks, generator=draw) for _ in range(2))
    torch.testing.assert_close(rotate(left, size) @ rotate(right, size).t(), left @ right.t(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rotate(rotate(left, size), size), left, rtol=1e-5, atol=1e-5)


def test_an_outlier_is_spread_over_its_block_and_no_further():
    vector = torch.zeros(1, 128)
    vector[0, 3] = 8.0
    turned = rotate(vector, 64)
    assert torch.equal(turned[0, :64].abs(), torch.ones(64))
    assert torch.equal(turned[0, 64:], torch.zeros(64))


@pytest.mark.parametrize("size", ROTATIONS)
@pytest.mark.parametrize("shape", [(3, 5), (1,), (3,), (2, 0)])
def test_gradients_are_asked_for_or_not_the_bits_are_the_same(size, shape):
    vectors = torch.randn(*shape, 2 * size, generator=torch.Generator().manual_seed(0))
    kept = vectors.clone()
    with_gradients = rotate(vectors.clone().requires_grad_(), size)
    assert with_gradients.requires_grad and torch.equal(with_gradients.detach(), rotate(vectors, size))
    assert torch.equal(vectors, kept) and rotate(vectors, size).is_contiguous()
