"""Preparing and converting whole models: what was evaluated in training is what is saved and loaded again."""

import pytest
import torch
from torch import nn

import hf_quant
from hf_quant import HfQuantConfig, Plan, Scheme, TensorScheme
from hf_quant.config.presets import PRESETS
from hf_quant.errors import ConfigError, PlanError, TrainingError, UnsupportedModel, WeightError
from hf_quant.fusion.fuse import unfuse
from hf_quant.integration import attention
from hf_quant.modules.swap import quantized_modules
from hf_quant.qat.options import QATOptions
from hf_quant.qat.prepare import fake_quantized_modules
from hf_quant.workflows.qat import convert, prepare
from tests.integration.calibration_data import calibration
from tests.integration.tiny import FAMILIES, auto_class, error, outputs, saved_tensors, tiny_model, token_ids

MIXED = {
    "re:.*(self_attn|attn|attention).*": Scheme(
        TensorScheme(bits=4, symmetric=False, granularity="group", group_size=32),
        TensorScheme(granularity="group", group_size=32, dynamic=True),
    ),
    "re:.*(mlp|intermediate).*": Scheme(TensorScheme(bits=3), TensorScheme(granularity="token", dynamic=True)),
    "re:.*embed.*|.*wte|lm_head|.*decoder": Scheme(TensorScheme(bits=8)),
}


def observe(model, ids):
    """What observer steps do: static inputs take the range of one batch."""
    quantizers = {
        name: module.input_quantizer
        for name, module in fake_quantized_modules(model)
        if hasattr(getattr(module, "input_quantizer", None), "observing")
    }
    for quantizer in quantizers.values():
        quantizer.observing = True
    if quantizers:
        model(input_ids=ids)
    for name, quantizer in quantizers.items():
        quantizer.observing = False
        quantizer.next_step(name)
        quantizer.initialise(name)


def trained(name, config, options=None, steps=2):
    """A tiny model after a few steps with quantization in the loop."""
    model = prepare(tiny_model(name), config, options).train()
    ids = token_ids(rows=4)
    observe(model, ids)
    grids = [p for key, p in model.named_parameters() if "grid." in key]
    masters = [p for key, p in model.named_parameters() if "grid." not in key]
    own = [{"params": [p], "lr": 1e-2 * p.detach().abs().amin().item(), "weight_decay": 0.0} for p in grids]
    optimizer = torch.optim.AdamW([{"params": masters}, *own], lr=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    return model.eval()


def plan_of(config, name):
    return HfQuantConfig(plan=Plan(MIXED)) if config == "mixed" else config


@pytest.mark.parametrize("config", [*PRESETS, "mixed"])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_was_evaluated_in_training_is_what_is_converted_saved_and_loaded(name, config, tmp_path):
    model = trained(name, plan_of(config, name))
    evaluated = outputs(model)
    assert convert(model) is model
    fused = outputs(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(auto_class(name).from_pretrained(tmp_path).eval()), fused)
    # Fused calls add floats in another order, so that an input may round to the next code.
    assert error(fused, evaluated) < 2e-2
    unfuse(model)
    attention.restore(model)
    assert torch.equal(outputs(model), evaluated)


@pytest.mark.parametrize("name", FAMILIES)
def test_without_a_step_min_max_training_converts_to_what_quantize_gives(name):
    model = prepare(tiny_model(name), "int4", QATOptions(weights="minmax"))
    quantized = hf_quant.quantize(tiny_model(name), "int4", progress=False)
    assert torch.equal(outputs(convert(model)), outputs(quantized))
    assert model.config.quantization_config.to_dict() == quantized.config.quantization_config.to_dict()


@pytest.mark.parametrize("name", FAMILIES)
def test_training_with_quantization_in_the_loop_lowers_the_loss_of_the_converted_model(name):
    ids = token_ids(rows=4)

    def loss(model):
        with torch.no_grad():
            return model(input_ids=ids, labels=ids).loss.item()

    config = HfQuantConfig(scheme=Scheme(TensorScheme(bits=3), TensorScheme(granularity="token", dynamic=True)))
    before, after = (loss(convert(trained(name, config, steps=steps))) for steps in (0, 30))
    assert after < 0.8 * before


@pytest.mark.parametrize("name", FAMILIES)
def test_converted_models_are_marked_and_named_as_quantized_ones(name):
    model = convert(trained(name, "int4"))
    assert model.is_quantized and isinstance(model.config.quantization_config, HfQuantConfig)
    assert model.config.quantization_config.preset == "int4"
    assert not any(p.requires_grad for _, module in quantized_modules(model) for p in module.parameters())
    tied = {a: b for a, b in model.all_tied_weights_keys.items() if a.endswith(".weight")}
    assert tied and all(model.get_parameter(a) is model.get_parameter(b) for a, b in tied.items())
    assert hf_quant.inspect(model) is not None


def test_a_checkpoint_in_training_is_a_float_checkpoint_with_grids(tmp_path):
    model = trained("llama", "int4")
    model.save_pretrained(tmp_path)
    other = prepare(tiny_model("llama", seed=1), "int4")
    result = other.load_state_dict(saved_tensors(tmp_path), strict=False)
    other.tie_weights()
    assert not result.unexpected_keys
    assert torch.equal(outputs(other.eval()), outputs(model))


@pytest.mark.parametrize("name", FAMILIES)
def test_inference_mode_evaluates_as_no_grad_does(name):
    model = trained(name, "int8")
    with torch.inference_mode():
        inside = model(input_ids=token_ids()).logits.clone()
    assert torch.equal(outputs(model), inside)
    model.train()(input_ids=token_ids(), labels=token_ids()).loss.backward()


@pytest.mark.parametrize("again", ["prepared", "converted", "quantized"])
def test_models_that_are_no_float_models_are_refused(again):
    model = tiny_model("llama")
    if again == "quantized":
        hf_quant.quantize(model, "int8", progress=False)
    else:
        prepare(model, "int8")
    if again == "converted":
        convert(model)
    with pytest.raises(UnsupportedModel, match="leave the config out" if again == "prepared" else "quantized already"):
        prepare(model, "int8")
    with pytest.raises(UnsupportedModel, match="works on Transformers models"):
        prepare(nn.Linear(4, 4), "int8")


@pytest.mark.parametrize("make", [lambda: tiny_model("bert"), lambda: convert(prepare(tiny_model("bert"), "int8"))])
def test_only_models_in_training_are_converted(make):
    with pytest.raises(UnsupportedModel, match="quantization-aware training, which this one is not"):
        convert(make())


def test_what_cannot_be_trained_is_refused_and_left_as_it_was():
    model = tiny_model("gpt2")
    before = outputs(model)
    with pytest.raises(PlanError, match="matches no module"):
        prepare(model, HfQuantConfig(plan=Plan({"nothing.*": PRESETS["int8"].linear})))
    with pytest.raises(PlanError, match="quantizes no module"):
        prepare(model, HfQuantConfig("int8", modules_to_not_convert=["transformer", "lm_head"]))
    with pytest.raises(ConfigError, match="neither recipe nor calibration"):
        prepare(model, HfQuantConfig("int8-static", calibration=calibration()))
    with pytest.raises(ConfigError, match="preset's name"):
        prepare(model, 4)
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="all parameters are frozen"):
        prepare(model, "int8")
    model.requires_grad_(True)
    assert torch.equal(outputs(model), before)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight[0, 0] = torch.inf
    for weights in ("lsq", "minmax"):
        with pytest.raises(WeightError, match=r"transformer\.h\.1\.mlp\.c_fc\.weight holds NaN or Inf"):
            prepare(model, "int4", QATOptions(weights=weights))
    assert list(fake_quantized_modules(model)) == []


@pytest.mark.parametrize("value", [0.0, -1e-4, torch.nan])
def test_a_scale_gone_bad_is_named_and_nothing_is_converted(value):
    model = trained("bert", "int4")
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight_quantizer.grid.scale[3, 0] = value
    with pytest.raises(TrainingError, match=r"the weights of bert\.encoder\.layer\.1\.output\.dense (is|holds)"):
        convert(model)
    assert any(True for _ in fake_quantized_modules(model))
