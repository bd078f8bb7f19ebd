"""Conv1D on codes: the same numbers as a linear, and a float Conv1D again when restored."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_quant.modules.conv1d import QuantizedConv1D
from hf_quant.modules.swap import restore_float
from tests.naming import naming
from tests.quantized_linear import SCHEMES, make_input, spec_for
from tests.quantized_modules import COPIES, make_linear

SPECS = {name: spec for name in SCHEMES if (spec := spec_for(name, 128, 48)) is not None}
every_scheme = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())


@every_scheme
def test_it_computes_what_a_linear_with_the_same_codes_computes(spec):
    conv, linear = make_linear(spec, cls=QuantizedConv1D), make_linear(spec)
    for shape in ((5, 128), (2, 3, 128), (128,), (2, 0, 128)):
        input = make_input(spec, 6).flatten()[: torch.Size(shape).numel()].reshape(shape)
        assert torch.equal(conv(input), linear(input)) and conv(input).shape == (*shape[:-1], 48)


@every_scheme
def test_codes_and_checkpoint_are_laid_out_as_for_a_linear(spec):
    conv, linear = make_linear(spec, cls=QuantizedConv1D), make_linear(spec)
    assert conv.saved_tensors() == linear.saved_tensors()
    assert all(torch.equal(tensor, linear.state_dict()[name]) for name, tensor in conv.state_dict().items())
    assert conv.dequantized_weight().shape == (48, 128)


def test_widths_go_by_the_names_that_conv1d_gives_them():
    conv = make_linear(SPECS["int8"], cls=QuantizedConv1D)
    assert (conv.nx, conv.nf) == (128, 48) == (conv.in_features, conv.out_features)
    assert isinstance(conv, nn.Linear)


@every_scheme
def test_copies_are_conv1ds_with_identical_outputs(spec):
    for way, duplicate in COPIES.items():
        with naming(way):
            conv = make_linear(spec, cls=QuantizedConv1D)
            twin = duplicate(conv)
            input = make_input(spec, 3)
            assert type(twin) is QuantizedConv1D and torch.equal(twin(input), conv(input))


@every_scheme
def test_restoring_gives_a_conv1d_with_the_weight_transposed_back(spec):
    for dtype in (torch.float32, torch.bfloat16):
        with naming(dtype):
            assert_restored(spec, dtype)


def assert_restored(spec, dtype):
    model = nn.Sequential(make_linear(spec, cls=QuantizedConv1D))
    weight, bias = model[0].dequantized_weight(), model[0].bias.detach().clone()
    restore_float(model, dtype)
    restored = model[0]
    assert type(restored) is Conv1D and (restored.nx, restored.nf) == (128, 48)
    assert restored.weight.shape == (128, 48) and restored.weight.is_contiguous()
    assert torch.equal(restored.weight, weight.t().to(dtype)) and torch.equal(restored.bias, bias.to(dtype))
    input = torch.randn(2, 3, 128, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.allclose(
        restored(input), nn.functional.linear(input, weight.to(dtype), bias.to(dtype)), rtol=1e-2, atol=1e-2
    )
