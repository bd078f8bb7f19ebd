import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.config.scheme import TensorScheme
from hf_quant.errors import CheckpointError
from hf_quant.formats import format_of
from hf_quant.formats.base import Matrix
from hf_quant.layouts.compressed_tensors import read, to_packed, to_plain
from tests.naming import naming

SCHEMES = [
    TensorScheme(bits=bits, symmetric=symmetric, **grid)
    for bits in range(2, 9)
    for symmetric in (True, False)
    for grid in ({"granularity": "group", "group_size": 12}, {"granularity": "channel"}, {"granularity": "tensor"})
]


def stored(scheme, rows=7, width=36, seed=0):
    """A weight that uses all codes and zero points of a scheme, which fill no whole number of words."""
    generator = torch.Generator().manual_seed(seed)
    matrix, kind = Matrix(scheme, rows, width), format_of(scheme)
    half = 2 ** (scheme.bits - 1)
    least = 1 - half if scheme.symmetric and scheme.bits == 8 else -half  # no quantizer writes the lowest one
    codes = torch.randint(least, half, (rows, width), generator=generator, dtype=kind.dtype)
    zeros = torch.randint(-half, half, matrix.scale_shape, generator=generator, dtype=kind.dtype)
    scale = torch.rand(matrix.scale_shape, generator=generator) + 0.1
    return kind.stored(kind.pack(codes), (scale, None if scheme.symmetric else zeros), "w"), matrix, codes, zeros


def equal(one, other):
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


@pytest.mark.parametrize("there", [to_packed, to_plain])
def test_there_and_back_is_the_same_bit_for_bit(there):
    for scheme in SCHEMES:
        with naming(scheme):
            tensors, matrix, *_ = stored(scheme)
            back = read(there(tensors, matrix), scheme.bits, scheme.symmetric)
            assert back.matrix == matrix and equal(back.tensors, tensors)


def test_packed_codes_and_zero_points_are_those_of_the_real_packer():
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    for scheme in SCHEMES:
        with naming(scheme):
            tensors, matrix, codes, zeros = stored(scheme)
            found = to_packed(tensors, matrix)
            assert torch.equal(found["weight_packed"], helpers.pack_to_int32(codes, scheme.bits))
            assert found["weight_shape"].tolist() == list(codes.shape)
            if not scheme.symmetric:
                expected = helpers.pack_to_int32(zeros, scheme.bits, packed_dim=0)
                assert torch.equal(found["weight_zero_point"], expected)


def test_one_code_a_byte_is_the_codes():
    tensors, matrix, codes, zeros = stored(TensorScheme(bits=5, symmetric=False))
    found = to_plain(tensors, matrix)
    assert torch.equal(found["weight"], codes) and torch.equal(found["weight_zero_point"], zeros)


@pytest.mark.parametrize("there", [to_packed, to_plain])
@pytest.mark.parametrize("name", ["weight_packed", "weight", "weight_scale", "weight_zero_point"])
@settings(deadline=None, max_examples=20)
@given(change=st.sampled_from(["missing", "longer", "floats", "bytes"]))
def test_a_tensor_that_is_not_what_the_scheme_says_is_refused(there, name, change):
    tensors, matrix, *_ = stored(TensorScheme(bits=4, symmetric=False, granularity="group", group_size=12))
    found = there(tensors, matrix)
    if name not in found:
        return
    if change == "missing":
        del found[name]
    elif change == "longer":
        found[name] = torch.cat([found[name], found[name][:1]])
    else:
        found[name] = found[name].to({"floats": torch.float64, "bytes": torch.uint8}[change])
    with pytest.raises(CheckpointError, match=r"weight|scales"):
        read(found, 4, False)


def test_integers_beyond_the_bits_are_refused():
    tensors, matrix, *_ = stored(TensorScheme(bits=3))
    found = to_plain(tensors, matrix)
    found["weight"][2, 3] = 4
    with pytest.raises(CheckpointError, match="3 bits"):
        read(found, 3, True)


def test_bits_after_the_last_code_are_refused():
    tensors, matrix, *_ = stored(TensorScheme(bits=3))
    found = to_packed(tensors, matrix)
    found["weight_packed"][0, -1] |= 1 << 30
    with pytest.raises(CheckpointError, match="after the last"):
        read(found, 3, True)


def test_a_shape_that_says_otherwise_is_refused():
    tensors, matrix, *_ = stored(TensorScheme(bits=4))
    with pytest.raises(CheckpointError, match="no 4-bit weight of"):
        read({**to_packed(tensors, matrix), "weight_shape": torch.tensor([7, 44])}, 4, True)
