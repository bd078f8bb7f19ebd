"""nf4, a format that is one file and a row of the table, through everything that a weight goes through."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import hf_quant
from hf_quant import HfQuantConfig, Offer, Plan, Scheme, TensorScheme
from hf_quant.config.recipe import Recipe
from hf_quant.errors import CheckpointError, ConfigError
from hf_quant.modules.swap import quantized_modules
from hf_quant.qat.options import QATOptions
from hf_quant.workflows.qat import convert
from tests.integration.calibration_data import HELD_OUT, calibration
from tests.integration.test_calibrated import spiky_model
from tests.integration.test_qat import trained
from tests.integration.tiny import FAMILIES, auto_class, error, outputs, tiny_model, token_ids

NF4 = Scheme(TensorScheme("nf4", 4, granularity="group", group_size=32))
CHANNEL = Scheme(TensorScheme("nf4", 4, scale_dtype="float16"))


def plan(scheme=NF4):
    """Everything that can be quantized, tables and heads too."""
    return Plan({"*": scheme})


def saved(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("scheme", [NF4, CHANNEL, Scheme(TensorScheme("nf4", 4, rotation=32))], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_it_loads_on_the_fly_saves_and_reloads_bit_for_bit(name, scheme, tmp_path):
    tiny_model(name).save_pretrained(tmp_path / "float")
    config = HfQuantConfig(plan=plan(scheme))
    model = auto_class(name).from_pretrained(tmp_path / "float", quantization_config=config).eval()
    assert {str(module.spec.scheme) for _, module in quantized_modules(model)} == {str(scheme)}
    expected = outputs(model)
    assert {module.kernel for _, module in quantized_modules(model) if module.multiplies} == {"aten_dequantize"}
    model.save_pretrained(tmp_path / "own")
    again = auto_class(name).from_pretrained(tmp_path / "own").eval()
    assert torch.equal(outputs(again), expected)
    again.save_pretrained(tmp_path / "again")
    first, second = saved(tmp_path / "own"), saved(tmp_path / "again")
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(outputs(hf_quant.quantize(tiny_model(name), config, progress=False)), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_it_loses_less_than_even_steps_of_as_many_bits_and_dequantizes_to_what_it_computes(name):
    exact = outputs(tiny_model(name))
    even = Scheme(TensorScheme(bits=4, granularity="group", group_size=32))
    losses = []
    for scheme in (NF4, even):
        model = hf_quant.quantize(tiny_model(name), HfQuantConfig(plan=plan(scheme)), progress=False)
        found = outputs(model)
        losses.append(error(found, exact))
        assert error(outputs(model.dequantize()), found) < 1e-5
    assert losses[0] < losses[1] < 0.5


def test_inspect_says_what_it_is(tmp_path):
    model = hf_quant.quantize(tiny_model("llama"), HfQuantConfig(plan=plan()), progress=False)
    rows = [row for row in hf_quant.inspect(model).rows if row.scheme.startswith("NF4")]
    assert len(rows) == len(list(quantized_modules(model))) and {row.scheme for row in rows} == {"NF4 g32"}


def test_a_recipe_names_it_as_any_scheme(tmp_path):
    file = tmp_path / "nf4.yaml"
    file.write_text("scheme: {weight: {format: nf4, bits: 4, granularity: group, group_size: 64}}\nsolver: mse\n")
    recipe = Recipe.from_file(file)
    model = hf_quant.quantize(tiny_model("bert"), HfQuantConfig.from_recipe(recipe), progress=False)
    assert "NF4 g64" in {str(module.spec.scheme) for _, module in quantized_modules(model)}


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "mse"},
        {"solver": {"mse": {"importance": True}}},
        {"solver": "gptq"},
        {"solver": {"gptq": {"grid": "mse"}}},
        {"transforms": ["awq"]},
    ],
    ids=["mse", "importance", "gptq", "gptq-mse", "awq"],
)
def test_solvers_and_transforms_lose_less_than_rounding(options):
    exact = outputs(spiky_model("llama"), HELD_OUT)
    linears, losses = Plan({"re:.*layers.*": NF4}), []
    for recipe, data in (({}, None), (options, None if options == {"solver": "mse"} else calibration())):
        config = HfQuantConfig(plan=linears, recipe=recipe, calibration=data)
        model = hf_quant.quantize(spiky_model("llama"), config, progress=False)
        losses.append(error(outputs(model, HELD_OUT), exact))
    assert losses[1] < losses[0]


def test_signround_refuses_it_before_anything_is_done_and_says_what_it_takes():
    config = HfQuantConfig(plan=plan(), recipe={"solver": "signround"}, calibration=calibration())
    model = tiny_model("llama")
    with pytest.raises(
        ConfigError, match=r"NF4 g32, but signround, .* needs an even grid, of format int: 'nf4' has none"
    ):
        hf_quant.quantize(model, config, progress=False)
    assert not list(quantized_modules(model))


@pytest.mark.parametrize("weights", ["lsq", "minmax"])
@pytest.mark.parametrize("name", FAMILIES)
def test_it_trains_and_what_was_evaluated_is_what_is_saved(name, weights, tmp_path):
    model = trained(name, HfQuantConfig(plan=plan()), QATOptions(weights=weights))
    evaluated = outputs(model)
    convert(model)
    assert torch.equal(outputs(model), evaluated)
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(auto_class(name).from_pretrained(tmp_path).eval()), evaluated)


@torch.no_grad()
def test_learned_scales_move_and_lower_the_loss():
    losses, scales = [], []
    for steps in (1, 30):
        with torch.enable_grad():
            model = trained("llama", HfQuantConfig(plan=plan(CHANNEL)), QATOptions(initial="minmax"), steps=steps)
        ids = token_ids(rows=4)
        losses.append(float(model(input_ids=ids, labels=ids).loss))
        scales.append(model.model.layers[0].mlp.up_proj.weight_quantizer.grid.scale.detach().clone())
    assert losses[1] < 0.9 * losses[0] and not torch.equal(*scales) and bool((scales[1] > 0).all())


def test_a_search_offers_it_when_it_is_named():
    offer = Offer(schemes=[NF4, Scheme(TensorScheme())])
    found, _ = hf_quant.search_plan(tiny_model("llama"), calibration(), "6bpw", offer=offer, progress=False)
    chosen = {str(scheme) for scheme in found.modules.values()}
    assert "NF4 g32" in chosen and chosen <= {"NF4 g32", "W8A16", "None"}


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0, -1.0])
def test_a_checkpoint_with_scales_that_are_none_is_refused(value, tmp_path):
    model = hf_quant.quantize(tiny_model("llama"), HfQuantConfig(plan=plan()), progress=False)
    model.save_pretrained(tmp_path)
    tensors = saved(tmp_path)
    tensors["model.layers.0.mlp.up_proj.weight_scale"][3, 1] = value
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"up_proj\.weight_scale holds values that are not finite and positive"):
        auto_class("llama").from_pretrained(tmp_path)


def test_a_checkpoint_whose_config_says_other_scales_is_refused(tmp_path):
    hf_quant.quantize(tiny_model("llama"), HfQuantConfig(plan=plan()), progress=False).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text())).replace('"format": "nf4"', '"scale_dtype": "float16", "format": "nf4"')
    )
    with pytest.raises(CheckpointError, match="weight_scale should be F16"):
        auto_class("llama").from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_scales_of_every_dtype_survive_saving_casts_and_loading(dtype, granularity, tmp_path):
    size = 32 if granularity == "group" else None
    scheme = Scheme(TensorScheme(bits=4, symmetric=False, granularity=granularity, group_size=size, scale_dtype=dtype))
    model = hf_quant.quantize(tiny_model("llama"), HfQuantConfig(plan=plan(scheme)), progress=False)
    expected = {name: module.dequantized_weight() for name, module in quantized_modules(model)}
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        kinds = {str(file.get_tensor(key).dtype) for key in file.keys() if key.endswith("weight_scale")}  # noqa: SIM118
    assert kinds == {f"torch.{dtype}"}
    again = auto_class("llama").from_pretrained(tmp_path, dtype=torch.float32).eval()
    for name, module in quantized_modules(again):
        assert torch.equal(module.dequantized_weight(), expected[name])


def test_it_compiles_as_one_graph_and_passes_gradients():
    model = hf_quant.quantize(tiny_model("llama"), HfQuantConfig(plan=plan()), progress=False)
    expected = outputs(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(input_ids=token_ids()).logits, model(input_ids=token_ids()).logits)
    linear, rows = model.model.layers[0].mlp.up_proj, torch.randn(3, 64, requires_grad=True)
    linear(rows).sum().backward()
    assert torch.allclose(rows.grad, linear.dequantized_weight().sum(0).expand(3, -1), rtol=1e-5, atol=1e-5)
    assert torch.equal(outputs(model), expected)
