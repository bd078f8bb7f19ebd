"""Stored floats: rounding to the format and nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_quant.config.formats import FORMATS
from hf_quant.config.scheme import TensorScheme
from hf_quant.formats import FloatFormat, float_format


@pytest.mark.parametrize(
    ("name", "bits", "dtype"),
    [("float", 32, torch.float32), ("float", 16, torch.float16), ("bfloat", 16, torch.bfloat16)],
)
def test_a_scheme_names_a_dtype(name, bits, dtype):
    assert float_format(TensorScheme(name, bits)).dtype == dtype


def test_every_float_scheme_has_a_format():
    for name in ("float", "bfloat"):
        for bits in FORMATS[name].bits:
            assert torch.finfo(float_format(TensorScheme(name, bits)).dtype).bits == bits


@settings(deadline=None, derandomize=True, max_examples=100)
@given(st.floats(-(2.0**100), 2.0**100, width=32))
def test_encoding_takes_one_of_the_two_neighbours_in_bfloat16_the_nearer(value):
    real = torch.tensor(value)
    bits = real.view(torch.int32)
    below = (bits & ~0xFFFF).view(torch.float32)
    above = ((bits & ~0xFFFF) + 0x10000).view(torch.float32)
    encoded = FloatFormat(torch.bfloat16).encode(real).float()
    distance = min((real.double() - below.double()).abs(), (real.double() - above.double()).abs())
    assert encoded in (below, above) and (encoded.double() - real.double()).abs() == distance


def test_ties_round_to_even():
    ties = torch.tensor([1 + 2.0**-8, 1 + 3 * 2.0**-8])
    assert FloatFormat(torch.bfloat16).encode(ties).tolist() == [1.0, 1 + 2.0**-6]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_encoding_twice_changes_nothing(dtype):
    encoded = FloatFormat(dtype).encode(torch.randn(50, generator=torch.Generator().manual_seed(0)))
    assert encoded.dtype == dtype and torch.equal(FloatFormat(dtype).encode(encoded.float()), encoded)
