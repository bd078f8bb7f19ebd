"""What stands for quantized modules in a program: codes folded to what XNNPACK takes, the same numbers."""

from dataclasses import replace

import pytest
import torch

import hf_quant
from hf_quant.config.plan import Plan
from hf_quant.config.scheme import Scheme, TensorScheme
from hf_quant.errors import ExportError
from hf_quant.export.executorch.modules import Product, fold, stand_in
from hf_quant.export.executorch.runtime import require_operators
from hf_quant.export.onnx.blocks import Integers
from hf_quant.export.onnx.exact import exact_output
from hf_quant.modules.swap import quantized_modules
from tests.integration.tiny import HIDDEN, VOCABULARY, error, tiny_model
from tests.naming import naming

TOKEN = TensorScheme(bits=8, symmetric=False, granularity="token", dynamic=True)
GROUPS = {"granularity": "group", "group_size": 32}
LINEAR = "model.layers.0.mlp.up_proj"
WEIGHTS = {
    "8 bits": TensorScheme(bits=8),
    "8 bits, rotated": TensorScheme(bits=8, rotation=32),
    "8 bits, asymmetric": TensorScheme(bits=8, symmetric=False),
    "4 bits": TensorScheme(bits=4),
    "6 bits, asymmetric": TensorScheme(bits=6, symmetric=False),
    "4 bits in groups": TensorScheme(bits=4, **GROUPS),
    "4 bits in groups, asymmetric": TensorScheme(bits=4, symmetric=False, **GROUPS),
    "3 bits in groups, asymmetric, rotated": TensorScheme(bits=3, symmetric=False, rotation=32, **GROUPS),
    "2 bits in groups": TensorScheme(bits=2, **GROUPS),
}


def quantized(name, scheme):
    model = hf_quant.quantize(tiny_model("llama-untied"), hf_quant.HfQuantConfig(plan=Plan({name: scheme})), False)
    return dict(quantized_modules(model))[name]


def real(numbers, groups):
    zero = 0 if numbers.zero_point is None else numbers.zero_point[..., None].double()
    return ((numbers.codes.unflatten(-1, (groups, -1)).double() - zero) * numbers.scale[..., None].double()).flatten(-2)


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_folding_keeps_every_number_and_makes_scales_positive(bits, groups, asymmetric):
    numbers = torch.Generator().manual_seed(bits)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
    codes = torch.randint(low, high, (6, 32), generator=numbers).to(torch.int8)
    scale = torch.randn(6, groups, generator=numbers)
    scale[0, 0] = 0
    zero = torch.randint(low, high, (6, groups), generator=numbers).to(torch.int8) if asymmetric else None
    given = Integers(codes, scale, zero)
    for in_bytes in (False, True) if groups == 1 else (False,):
        folded = fold(given, in_bytes)
        assert torch.equal(real(folded, groups), real(given, groups)) and (folded.scale > 0).all()
        if in_bytes:
            assert folded.zero_point is None
        else:
            assert folded.codes.min() >= low and folded.codes.max() < high


def test_bytes_that_leave_no_room_keep_zero_points():
    given = Integers(torch.tensor([[-128, 127]], dtype=torch.int8), torch.ones(1, 1), torch.tensor([[9]]))
    folded = fold(given, in_bytes=True)
    assert torch.equal(real(folded, 1), real(given, 1)) and folded.zero_point is not None


@pytest.mark.parametrize("weight", list(WEIGHTS))
def test_a_linear_gives_what_exact_arithmetic_gives(weight):
    for name in ("executorch", "torchao"):
        pytest.importorskip(name)
    require_operators()
    module = quantized(LINEAR, Scheme(WEIGHTS[weight], TOKEN))
    input = torch.randn(1, 5, HIDDEN, generator=torch.Generator().manual_seed(1))
    assert error(stand_in(LINEAR, module)(input), exact_output(module, input)) < 1e-5


def test_an_embedding_gives_the_very_rows():
    for name in ("executorch", "torchao"):
        pytest.importorskip(name)
    require_operators()
    ids = torch.arange(VOCABULARY).view(2, -1)
    for name in ("8 bits", "8 bits, rotated", "8 bits, asymmetric", "4 bits in groups, asymmetric"):
        with naming(name):
            module = quantized("model.embed_tokens", Scheme(WEIGHTS[name]))
            assert error(stand_in("", module)(ids), exact_output(module, ids)) < 1e-6


def test_scales_with_more_bits_than_bfloat16_are_refused():
    module = quantized(LINEAR, Scheme(WEIGHTS["4 bits in groups"], TOKEN))
    made = stand_in(LINEAR, module)
    assert isinstance(made, Product) and torch.equal(made.scale, made.scale.bfloat16().float())
    finer = quantized(LINEAR, Scheme(replace(WEIGHTS["4 bits in groups"], scale_dtype="float32"), TOKEN))
    with pytest.raises(ExportError, match=rf"{LINEAR} has scales .* bfloat16"):
        stand_in(LINEAR, finer)
