"""Float weights that cannot be quantized are refused by name, and awkward ones that can are quantized exactly."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, LlamaConfig, LlamaForCausalLM

from hf_quant import HfQuantConfig, Scheme, TensorScheme, quantize
from hf_quant.algorithms import SOLVERS
from hf_quant.config.formats import FORMATS
from hf_quant.errors import HfQuantError, PlanError, WeightError
from hf_quant.formats import format_of
from hf_quant.formats.packing import unpack
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.swap import quantized_modules
from tests.integration.tampering import WEIGHTS, float_model, inner, load, logits
from tests.naming import naming
from tests.zero_points import zero_points_of

NAMES = ["bert-int8", "gpt2-int4", "llama-int4", "llama-int8"]
POISON = [float("nan"), float("inf"), float("-inf")]
BITS = FORMATS["int"].bits


def preset(name):
    return HfQuantConfig(name.split("-")[1])


def auto_class(name):
    return AutoModelForMaskedLM if name.startswith("bert") else AutoModelForCausalLM


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("name", NAMES)
def test_on_the_fly_a_weight_with_nan_or_inf_is_refused_by_name(tmp_path, name, poison):
    model = float_model(name)
    model.get_submodule(inner(name)).weight.data[-1, -1] = poison
    model.save_pretrained(tmp_path)
    with pytest.raises(WeightError, match=rf"{inner(name)}\.weight holds NaN or Inf.*modules_to_not_convert"):
        auto_class(name).from_pretrained(tmp_path, quantization_config=preset(name))


@pytest.mark.parametrize("poison", POISON)
@pytest.mark.parametrize("name", NAMES)
def test_in_memory_a_refusal_leaves_the_model_as_it_was(name, poison):
    model = float_model(name)
    before, kinds = copy.deepcopy(model.state_dict()), [type(module) for module in model.modules()]
    expected = logits(model)
    poisoned = model.get_submodule(inner(name)).weight
    kept = poisoned.data[-1, -1].clone()
    poisoned.data[-1, -1] = poison
    with pytest.raises(WeightError, match=rf"{inner(name)}\.weight holds NaN or Inf.*modules_to_not_convert"):
        quantize(model, preset(name), progress=False)
    poisoned.data[-1, -1] = kept
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert [type(module) for module in model.modules()] == kinds
    assert not getattr(model, "is_quantized", False)
    assert not hasattr(model.config, "quantization_config")
    assert torch.equal(logits(model), expected)
    quantize(model, preset(name), progress=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_poisoned_module_that_is_kept_float_hinders_nothing(name):
    model = float_model(name)
    model.get_submodule(inner(name)).weight.data[0, 0] = float("nan")
    config = HfQuantConfig(name.split("-")[1], modules_to_not_convert=[inner(name)])
    quantized = quantize(model, config, progress=False)
    assert not isinstance(quantized.get_submodule(inner(name)), QuantizedModule)
    assert quantized.config.quantization_config.kept_float[inner(name)] == "listed in modules_to_not_convert"


def decoded(weight, scheme):
    """`weight` as its codes stand for it, and the scale of each number."""
    solved = SOLVERS["rtn"]().solve(weight, scheme, "weight")
    rows, width = weight.shape
    groups = (-1, scheme.group_size or width)
    codes = unpack(solved["codes"], scheme.bits, width).unflatten(-1, groups)
    zero_point = zero_points_of(solved, scheme)
    zero_point = None if zero_point is None else zero_point[..., None]
    values = format_of(scheme).decode(codes, solved["scale"][..., None], zero_point).flatten(-2)
    scale = solved["scale"][..., None].expand(rows if len(solved["scale"]) > 1 else 1, *codes.shape[1:]).flatten(-2)
    return values, scale.expand(rows, width)


def assert_within_half_a_step(values, weight, scale, scheme):
    # float32 rounds the quotient and the product: at 16 bits that is a visible part of a step.
    rounding = weight.double().abs() * 2 * torch.finfo(torch.float32).eps
    if (scale == scale.bfloat16()).all():
        # Rounded to bfloat16, which may leave the extremes just past the last code.
        rounding += weight.double().abs().amax() * 2 * torch.finfo(torch.bfloat16).eps
    steps, format = scale.double().abs(), format_of(scheme)
    # Where scales have a sign, the highest code lies a step nearer to zero than the lowest: what is beyond is clipped.
    clipped = format.has_signed_scales & (weight.double() / scale.double() > format.quant_max + 0.5)
    assert ((values.double() - weight.double()).abs() <= torch.where(clipped, 1, 0.5) * steps + rounding).all()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_rows_of_zeros_decode_to_zeros(bits, symmetric):
    values, scale = decoded(torch.zeros(4, 33), TensorScheme(bits=bits, symmetric=symmetric))
    assert torch.equal(values, torch.zeros(4, 33))
    assert scale.isfinite().all() and scale.min() > 0


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_constant_rows_decode_within_half_a_step_or_a_whole_one_where_clipped(bits, symmetric):
    scheme = TensorScheme(bits=bits, symmetric=symmetric)
    for value in (1.0, -1.0, 1e-30, -1e38, 1e38, 1e-45):
        with naming(value):
            weight = torch.full((4, 33), value)
            values, scale = decoded(weight, scheme)
            assert values.isfinite().all()
            assert_within_half_a_step(values, weight, scale, scheme)


GROUPS_BY_WIDTH = {1: (None, 1), 3: (None, 1, 3), 33: (None, 1, 11), 100: (None, 25, 50)}


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_any_width_decodes_within_half_a_step_or_a_whole_one_where_clipped(bits, symmetric):
    for width, sizes in GROUPS_BY_WIDTH.items():
        weight = torch.randn(5, width, generator=torch.Generator().manual_seed(width))
        for size in sizes:
            with naming(f"width {width}", f"group_size={size}"):
                granularity = "channel" if size is None else "group"
                scheme = TensorScheme(bits=bits, symmetric=symmetric, granularity=granularity, group_size=size)
                values, scale = decoded(weight, scheme)
                assert_within_half_a_step(values, weight, scale, scheme)


def test_a_model_with_zero_and_constant_weights_still_works():
    model = float_model("llama-int4")
    model.model.layers[0].mlp.up_proj.weight.data.zero_()
    model.model.layers[0].mlp.down_proj.weight.data.fill_(0.25)
    model.model.embed_tokens.weight.data[3] = 0
    quantized = quantize(model, "int4", progress=False)
    assert torch.equal(quantized.model.layers[0].mlp.up_proj.dequantized_weight(), torch.zeros(128, 64))
    assert torch.equal(quantized.model.embed_tokens.dequantized_weight()[3], torch.zeros(64))
    assert logits(quantized).isfinite().all()


@pytest.mark.parametrize("width", [1, 3, 33, 100])
@pytest.mark.parametrize("scheme", ["int8", "int4", "int16", "w8a16", "3bit", "fp16"])
def test_models_with_odd_widths_are_quantized_saved_and_loaded(tmp_path, width, scheme):
    sizes = {"vocab_size": 50, "hidden_size": 64, "intermediate_size": width, "num_hidden_layers": 1}
    model = LlamaForCausalLM(LlamaConfig(num_attention_heads=2, num_key_value_heads=2, **sizes)).eval()
    config = HfQuantConfig(scheme=Scheme(TensorScheme(bits=3))) if scheme == "3bit" else HfQuantConfig(scheme)
    quantized = quantize(model, config, progress=False)
    expected = logits(quantized)
    quantized.save_pretrained(tmp_path / "llama")
    assert torch.equal(logits(load(tmp_path / "llama")), expected)


@pytest.mark.parametrize("size", [3, 48, 128])
def test_a_group_size_that_does_not_divide_is_refused_with_those_that_do(tmp_path, size):
    scheme = Scheme(TensorScheme(bits=4, granularity="group", group_size=size))
    model = float_model("llama-int4")
    with pytest.raises(PlanError, match=rf"group_size={size} does not divide its width 64; these do: 8, 16, 32, 64"):
        quantize(model, HfQuantConfig(scheme=scheme), progress=False)
    assert not list(quantized_modules(model))
    model.save_pretrained(tmp_path / "llama")
    with pytest.raises(PlanError, match=rf"group_size={size} does not divide"):
        load(tmp_path / "llama", quantization_config=HfQuantConfig(scheme=scheme))


@pytest.mark.parametrize("make", [lambda: nn.Linear(64, 0), lambda: nn.Linear(0, 8), lambda: nn.Embedding(0, 64)])
@pytest.mark.parametrize("name", ["llama-int8", "llama-int4"])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_module_without_weights_is_kept_float_with_a_reason(name, make):
    model = float_model(name)
    model.model.layers[0].extra = make()
    quantized = quantize(model, preset(name), progress=False)
    assert quantized.config.quantization_config.kept_float["model.layers.0.extra"] == "it has no weights"
    assert logits(quantized).isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_a_float_checkpoint_of_other_shapes_is_refused_by_name(tmp_path, name):
    float_model(name).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    full = f"{inner(name)}.weight"
    tensors[full] = tensors[full][:, :-1].contiguous()
    save_file(tensors, tmp_path / WEIGHTS, {"format": "pt"})
    with pytest.raises(WeightError, match=rf"{full} has shape .* but the model expects"):
        auto_class(name).from_pretrained(tmp_path, quantization_config=preset(name))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn])
@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_integers_is_refused_by_name(tmp_path, name, dtype):
    float_model(name).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    full = f"{inner(name)}.weight"
    tensors[full] = tensors[full].to(dtype)
    save_file(tensors, tmp_path / WEIGHTS, {"format": "pt"})
    with pytest.raises(WeightError, match=rf"{full} holds \w+, not floats: .* float checkpoint"):
        auto_class(name).from_pretrained(tmp_path, quantization_config=preset(name))


def test_a_float64_model_in_memory_is_refused_with_the_dtypes_that_work():
    with pytest.raises(HfQuantError, match=r"cast it to torch\.float32, bfloat16 or float16"):
        quantize(float_model("llama-int8").double(), "int8", progress=False)
