import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BertModel, LongformerConfig, LongformerForMaskedLM

import hf_quant
from hf_quant import HfQuantConfig, Plan, Scheme, TensorScheme
from hf_quant.algorithms.signround import SignRound
from hf_quant.errors import CalibrationError, ConfigError, WeightError
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.state import stored_state
from hf_quant.modules.swap import quantized_modules
from tests.integration.calibration_data import HELD_OUT, calibration, config, sequences
from tests.integration.tiny import (
    CHECKPOINTS,
    LAYERS,
    auto_class,
    error,
    outputs,
    saved_tensors,
    tiny_config,
    tiny_model,
)

STATIC = TensorScheme(symmetric=False, granularity="tensor")
FEW_STEPS = {"signround": {"steps": 20}}


def spiky_model(name):
    """Its norms make some channels far larger than others, as those of language models do."""
    model = tiny_model(name)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim == 1 and ("norm" in parameter_name.lower() or "ln_" in parameter_name):
                parameter[[3, 17, 42]] *= 12
    return model


def quantized_error(model, config):
    """Relative error of the logits on sequences that calibration did not see."""
    expected = outputs(model, HELD_OUT)
    return error(outputs(hf_quant.quantize(model, config, progress=False), HELD_OUT), expected)


def state(model):
    """Every tensor of a model as it is saved."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def differing(found, expected):
    """Names of tensors that are not bit for bit the same."""
    assert found.keys() == expected.keys()
    return [name for name in found if not torch.equal(found[name], expected[name])]


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize(
    "solver",
    ["mse", {"mse": {"importance": True}}, "gptq", {"gptq": {"grid": "mse"}}, {"signround": {"steps": 40}}],
    ids=["mse", "importance", "gptq", "gptq-mse", "signround"],
)
def test_every_solver_loses_less_than_rounding(name, solver):
    rounding = quantized_error(tiny_model(name), HfQuantConfig("w4a16"))
    assert quantized_error(tiny_model(name), config(solver=solver)) < rounding


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama-gqa"])
@pytest.mark.parametrize(
    ("preset", "transforms"),
    [
        ("w4a16", ["awq"]),
        ("w4a16", ["awq-clip"]),
        # The norms of BERT feed a residual, too, so that only values and their output projection are a pair.
        ("int8-static", [{"smoothquant": {"include_linears": True}}]),
        ("int8-static", [{"smoothquant": {"include_linears": True, "alpha": "auto"}}]),
    ],
    ids=["awq", "awq-clip", "smoothquant", "smoothquant-auto"],
)
def test_every_transform_loses_no_more_than_doing_without(name, preset, transforms):
    without = quantized_error(spiky_model(name), config(preset))
    assert quantized_error(spiky_model(name), config(preset, transforms=transforms)) <= without


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_biases_make_up_for_the_mean_error(name):
    without = quantized_error(tiny_model(name), HfQuantConfig("w4a16"))
    assert quantized_error(tiny_model(name), config(bias_correction=True)) < without


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_static_grids_are_saved_reloaded_bit_for_bit_and_used(name, tmp_path):
    model = hf_quant.quantize(tiny_model(name), config("int8-static", observer="minmax"), progress=False)
    expected = outputs(model, HELD_OUT)
    model.save_pretrained(tmp_path)
    tensors = saved_tensors(tmp_path)
    scales = {key: tensor for key, tensor in tensors.items() if key.endswith("input_scale")}
    in_blocks = [key for key, module in quantized_modules(model) if module.input_scale is not None]
    assert len(scales) == len(in_blocks) >= 4 * LAYERS
    for key, scale in scales.items():
        zero_point = tensors[key.replace("scale", "zero_point")]
        assert scale.shape == zero_point.shape == (1,) and zero_point.dtype == torch.int8 and scale > 0
    again = auto_class(name).from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(outputs(again, HELD_OUT), expected)
    assert differing(state(again), state(model)) == []
    (file,) = tmp_path.glob("*.safetensors")
    save_file(
        {key: tensor * (1 + key.endswith("input_scale")) for key, tensor in tensors.items()}, file, {"format": "pt"}
    )
    again = auto_class(name).from_pretrained(tmp_path, dtype=torch.float32)
    assert not torch.equal(outputs(again, HELD_OUT), expected)


def test_static_grids_hold_the_extremes_that_were_seen_without_padding():
    model, seen = tiny_model("bert"), []
    linear = model.bert.encoder.layer[0].attention.self.query
    data = calibration()
    with torch.no_grad():
        handle = linear.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        batches = data.batches(model.config)
        for batch in batches:
            model(**batch)
        handle.remove()
    kept = torch.cat([x[batch["attention_mask"].bool()] for x, batch in zip(seen, batches, strict=True)])
    # Embeddings are quantized first, so what the block gets is not quite what it was in the float model.
    hf_quant.quantize(model, config("int8-static", observer="minmax", data=data), progress=False)
    scale = model.bert.encoder.layer[0].attention.self.query.input_scale
    torch.testing.assert_close(scale.item(), (kept.max() - kept.min()).item() / 255, rtol=0.05, atol=0)


def test_rotation_spreads_the_outliers_of_static_inputs():
    plain, rotated = (
        HfQuantConfig(scheme=Scheme(weight, STATIC), recipe={"observer": "minmax"}, calibration=calibration())
        for weight in (TensorScheme(), TensorScheme(rotation=64))
    )
    assert quantized_error(spiky_model("llama"), rotated) < 0.7 * quantized_error(spiky_model("llama"), plain)


def test_a_head_may_have_a_static_input_tied_or_not():
    for name in ("llama", "llama-untied"):
        model = tiny_model(name)
        plan = HfQuantConfig(scheme=Scheme(TensorScheme(), STATIC), calibration=calibration())
        assert quantized_error(model, plan) < 0.15
        assert model.lm_head.input_scale > 0


@pytest.mark.parametrize(
    ("preset", "recipe"),
    [
        ("int4", {"solver": "gptq"}),
        ("w4a16", {"transforms": ["awq", "awq-clip"], "solver": FEW_STEPS}),
        ("int8-static", {"transforms": [{"smoothquant": {"include_linears": True}}], "bias_correction": True}),
        ("w4a16", {"solver": "mse"}),
    ],
    ids=["gptq", "signround", "smoothquant", "mse"],
)
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_loading_with_a_recipe_equals_quantizing_what_was_loaded(name, preset, recipe, load, checkpoints):
    loaded = load(name, config(preset, **recipe))
    model = auto_class(name).from_pretrained(checkpoints[name], dtype=torch.float32)
    hf_quant.quantize(model, config(preset, **recipe), progress=False)
    assert differing(state(loaded), state(model)) == []
    assert torch.equal(outputs(loaded, HELD_OUT), outputs(model, HELD_OUT))
    assert loaded.config.quantization_config == model.config.quantization_config


def test_a_sharded_checkpoint_loads_with_a_recipe(load, tmp_path):
    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    sharded = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=config(solver="gptq"), device_map="cpu"
    )
    assert differing(state(sharded), state(load("llama", config(solver="gptq")))) == []
    sharded.save_pretrained(tmp_path / "again", max_shard_size="20KB")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert torch.equal(outputs(again, HELD_OUT), outputs(sharded, HELD_OUT))


def test_the_recipe_and_the_fingerprint_of_the_data_are_saved_and_the_data_is_not(tmp_path):
    data = calibration()
    given = config("int4", data=data, solver={"gptq": {"damping": 0.02}})
    before = given.to_dict()
    model = hf_quant.quantize(tiny_model("llama"), given, progress=False)
    assert given.to_dict() == before
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert written["recipe"]["solver"] == {"gptq": {"damping": 0.02}}
    assert written["calibration_fingerprint"] == data.fingerprint(model.config)
    assert "calibration" not in written and "dataset" not in json.dumps(written)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.quantization_config == model.config.quantization_config
    assert again.config.quantization_config.calibration is None
    again.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["quantization_config"] == written


def test_a_generator_can_be_the_data_of_from_pretrained(load):
    loaded = load("llama", config(data=calibration(iter(sequences())), solver="gptq"))
    assert any(isinstance(module, QuantizedModule) for module in loaded.modules())


def test_tied_weights_stay_one_set_of_codes():
    model = hf_quant.quantize(tiny_model("gpt2"), config("int8-static", transforms=["smoothquant"]), progress=False)
    assert model.lm_head.tied and model.lm_head.weights["weight"] is model.transformer.wte.weights["weight"]
    assert "lm_head.weight_scale" not in stored_state(model, model.state_dict())


def test_a_model_in_training_and_bfloat16_stays_so():
    model = tiny_model("llama").to(torch.bfloat16).train()
    expected = outputs(model.eval(), HELD_OUT)
    hf_quant.quantize(model.train(), config(transforms=["awq"], solver="gptq"), progress=False)
    assert model.training and model.dtype == torch.bfloat16
    assert error(outputs(model.eval(), HELD_OUT), expected) < 0.5


def test_the_error_of_each_block_is_told():
    model = hf_quant.quantize(tiny_model("bert"), config(solver="gptq"), progress=False)
    errors = model.hf_quantizer.block_errors
    assert list(errors) == [f"bert.encoder.layer.{index}" for index in range(LAYERS)]
    assert all(0 < value < 0.3 for value in errors.values())
    assert hf_quant.quantize(tiny_model("bert"), "w4a16", progress=False).hf_quantizer.block_errors == {}


def test_blocks_may_stay_float_or_be_stored_as_floats():
    whole = quantized_error(tiny_model("llama"), config(solver="gptq"))
    layers = {"model.layers.0.*": None, "model.layers.1.mlp.*": "bf16"}
    mixed = HfQuantConfig("w4a16", overrides=layers, recipe={"solver": "gptq"}, calibration=calibration())
    model = tiny_model("llama")
    assert quantized_error(model, mixed) < whole
    assert type(model.model.layers[0].mlp.up_proj) is torch.nn.Linear
    assert model.model.layers[1].mlp.up_proj.weight.dtype == torch.bfloat16
    assert model.hf_quantizer.block_errors["model.layers.0"] == 0


def test_a_plan_takes_a_recipe():
    plan = Plan({"*.mlp.*": Scheme(TensorScheme(bits=3, symmetric=False, granularity="group", group_size=32))})
    errors = [
        quantized_error(tiny_model("llama"), HfQuantConfig(plan=plan, recipe={"solver": solver}, calibration=data))
        for solver, data in (("rtn", None), ("gptq", calibration()))
    ]
    assert errors[1] < errors[0]


@pytest.mark.parametrize(
    "given",
    [
        HfQuantConfig("int8-static"),
        HfQuantConfig("int4", recipe={"solver": "gptq"}),
        HfQuantConfig("int4", recipe={"solver": "signround"}),
        HfQuantConfig("int4", recipe={"transforms": ["awq"]}),
        HfQuantConfig("int4", recipe={"solver": {"mse": {"importance": True}}}),
        HfQuantConfig("int4", recipe={"bias_correction": True}),
    ],
    ids=lambda given: str(given.recipe and given.recipe.to_dict()),
)
def test_what_needs_data_says_so_before_anything_changes(given, load):
    model = tiny_model("llama")
    before = state(model)
    with pytest.raises(ConfigError, match=r"needs data: .*calibration=hf_quant\.Calibration.*--data"):
        hf_quant.quantize(model, given, progress=False)
    assert differing(state(model), before) == [] and not getattr(model, "is_quantized", False)
    with pytest.raises(ConfigError, match="needs data"):
        load("llama", given)


def test_data_that_nothing_needs_is_mentioned(caplog):
    hf_quant.quantize(tiny_model("llama"), config("int4", solver="mse"), progress=False)
    assert "the calibration data is not used" in caplog.text


def test_unknown_algorithms_are_refused_while_loading_too(load):
    with pytest.raises(ConfigError, match="did you mean 'gptq'"):
        load("llama", config(solver="gptp"))


@pytest.mark.parametrize("recipe", [{"solver": "gptq"}, {"observer": "minmax"}, {"solver": FEW_STEPS}], ids=str)
def test_activations_that_are_nan_name_the_module(recipe):
    model = tiny_model("llama")
    broken = model.model.layers[1].mlp.up_proj
    broken.register_forward_hook(lambda module, args, output: output * torch.inf)
    with pytest.raises(CalibrationError, match=r"model\.layers\.1\.mlp\.down_proj"):
        hf_quant.quantize(model, config("int8-static", **recipe), progress=False)


def test_a_weight_that_is_nan_is_named_and_nothing_changes():
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = torch.nan
    before = type(model.model.layers[0].mlp.up_proj)
    with pytest.raises(WeightError, match=r"layers\.1\.mlp\.up_proj\.weight holds NaN"):
        hf_quant.quantize(model, config(solver="gptq"), progress=False)
    assert type(model.model.layers[0].mlp.up_proj) is before


def test_data_without_a_sequence_is_refused():
    with pytest.raises(CalibrationError, match="empty"):
        hf_quant.quantize(tiny_model("llama"), config(data=calibration([]), solver="gptq"), progress=False)


def test_the_same_run_twice_gives_the_same_bits_and_other_data_others():
    configs = [config(data=calibration(seed=seed), solver=FEW_STEPS) for seed in (0, 0, 1)]
    first, second, other = (state(hf_quant.quantize(tiny_model("gpt2"), each, progress=False)) for each in configs)
    assert differing(first, second) == [] and differing(first, other)


def test_learned_roundings_aim_at_the_float_models_own_hidden_states(monkeypatch):
    targets = []
    solve = SignRound.solve_block

    def watched(self, block, schemes, batches, wanted, keep, seed):
        targets.append(torch.cat(list(wanted)))
        return solve(self, block, schemes, batches, wanted, keep, seed)

    monkeypatch.setattr(SignRound, "solve_block", watched)
    model = tiny_model("llama-gqa")
    data = sequences((32,) * 4)
    with torch.no_grad():
        hidden = model(torch.stack(list(data)), output_hidden_states=True, use_cache=False).hidden_states
    settings = HfQuantConfig(
        scheme=Scheme(TensorScheme(bits=2)),
        modules_to_not_convert=["model.embed_tokens", "lm_head"],
        recipe={"solver": {"signround": {"steps": 2}}},
        calibration=calibration(data, samples=4),
    )
    hf_quant.quantize(model, settings, progress=False)
    assert len(targets) == LAYERS == len(hidden) - 1
    # The last of the float model's is behind the norm that follows.
    for found, expected in zip(targets[:-1], hidden[1:-1], strict=True):
        # Batches have an order of their own.
        found, expected = (states[states[:, 0, 0].argsort()] for states in (found, expected))
        torch.testing.assert_close(found, expected)


def longformer():
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    made = LongformerConfig(vocab_size=128, max_position_embeddings=66, pad_token_id=1, attention_window=8, **sizes)
    torch.manual_seed(0)
    return LongformerForMaskedLM(made).eval()


def test_what_a_model_calls_at_other_times_only_is_rounded_to_nearest_and_named(caplog):
    # Without global attention, Longformer does not call its projections for it.
    found = hf_quant.quantize(longformer(), config(solver="gptq"), progress=False)
    nearest = hf_quant.quantize(longformer(), "w4a16", progress=False)
    attention, other = (each.longformer.encoder.layer[0].attention.self for each in (found, nearest))
    assert torch.equal(attention.query_global.weight.dequantize(), other.query_global.weight.dequantize())
    assert not torch.equal(attention.query.weight.dequantize(), other.query.weight.dequantize())
    assert "query_global" in caplog.text and "rounded to nearest" in caplog.text


@pytest.mark.parametrize("changes", [{"transforms": ["awq"]}, {"preset": "int8-static"}], ids=["awq", "static"])
def test_what_a_model_does_not_call_cannot_be_scaled_or_get_a_range(changes):
    with pytest.raises(CalibrationError, match="query_global"):
        hf_quant.quantize(longformer(), config(**changes), progress=False)


class Noisy(BertModel):
    """Draws random numbers in evaluation, as models of speech do."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        self.pooler.dense(output.last_hidden_state[:, 0] + torch.randn_like(output.last_hidden_state[:, 0]))
        return output


def test_what_a_model_draws_at_random_is_the_same_in_every_run_and_outside_of_them():
    grids = []
    for seed in (1, 2):
        torch.manual_seed(0)
        model = Noisy(tiny_config("bert")).eval()
        torch.manual_seed(seed)
        expected = torch.random.get_rng_state()
        hf_quant.quantize(model, HfQuantConfig("int8-static", calibration=calibration()), progress=False)
        assert torch.equal(torch.random.get_rng_state(), expected)
        grids.append(model.pooler.dense.input_scale)
    assert torch.equal(*grids)
