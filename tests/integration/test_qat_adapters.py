"""PEFT's adapters in the loop: what is rounded is the weight with the adapter merged."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import BertForSequenceClassification

import hf_quant
from hf_quant import HfQuantConfig
from hf_quant.errors import ConfigError, UnsupportedModel
from hf_quant.modules.swap import quantized_modules
from hf_quant.qat.options import QATOptions
from hf_quant.qat.prepare import fake_quantized_modules
from hf_quant.workflows.qat import convert, prepare
from tests.integration.adapters import lora_config
from tests.integration.qat_training import STATIC, Rows, same, state, trainer
from tests.integration.tiny import FAMILIES, auto_class, error, outputs, tiny_model

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # of PEFT's own
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),
]

RANGES = QATOptions(weights="minmax")


def adapted(name, seed=3, **changes):
    """A float model with an adapter that is not zero."""
    model = get_peft_model(tiny_model(name), lora_config(name, fan_in_fan_out=name == "gpt2", **changes))
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=chance))
    return model


def training(directory, name="llama", model=None, config="int4", **changes):
    model = adapted(name) if model is None else model
    return trainer(directory, config, name, model=model, weights="minmax", **changes)


@pytest.mark.parametrize("changes", [{}, {"use_rslora": True}], ids=["lora", "rslora"])
@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_rounded_is_the_weight_with_the_adapter_merged(name, changes):
    model = adapted(name, **changes)
    merged = copy.deepcopy(model).merge_and_unload()
    expected = hf_quant.quantize(merged, "int4", progress=False)
    prepare(model, "int4", RANGES)
    evaluated = outputs(model.eval())
    converted = convert(model)
    assert type(converted) is type(tiny_model(name)) and not hasattr(converted, "peft_config")
    assert same(state(converted), state(expected))
    assert error(outputs(converted), evaluated) < 2e-2  # fused calls add floats in another order


@pytest.mark.parametrize("name", FAMILIES)
def test_adapters_learn_and_a_plain_quantized_model_comes_out(name, tmp_path):
    run = training(tmp_path / "run", name, max_steps=20, learning_rate=5e-3)
    frozen = {key: value.clone() for key, value in run.model.get_base_model().state_dict().items() if "lora" not in key}
    before = run.evaluate(Rows())["eval_loss"]
    trained = {key for key, parameter in run.model.named_parameters() if parameter.requires_grad}
    assert trained and all("lora_" in key for key in trained)
    after = None

    def note(*args, **kwargs):
        nonlocal after
        after = {key: value.clone() for key, value in run.model.get_base_model().state_dict().items() if key in frozen}

    run.callback_handler.callbacks[-1].on_step_end = note
    run.train()
    assert same(frozen, after)
    assert not isinstance(run.model, PeftModel) and run.model.is_quantized
    assert run.evaluate(Rows())["eval_loss"] < before
    run.save_model(str(tmp_path / "saved"))
    loaded = auto_class(name).from_pretrained(tmp_path / "saved").eval()
    assert torch.equal(outputs(loaded), outputs(run.model.eval()))
    assert not any("lora" in key for key in loaded.state_dict())


def test_resuming_gives_the_bits_that_never_stopping_gives(tmp_path):
    whole = training(tmp_path, max_steps=6, save_strategy="steps", save_steps=2)
    whole.train()
    files = {path.name for path in (tmp_path / "checkpoint-4").iterdir()}
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    resumed = training(tmp_path / "resumed", max_steps=6, model=adapted("llama", seed=8))
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert same(state(whole.model), state(resumed.model))


def test_an_adapter_that_was_trained_is_saved_and_reloaded_by_peft_alone(tmp_path):
    run = training(tmp_path / "run", convert=False, activation_checkpointing=True)
    run.train()
    run.model.save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(tiny_model("llama"), tmp_path / "adapter")
    merged = hf_quant.quantize(loaded.merge_and_unload(), "int4", progress=False)
    assert same(state(merged), state(convert(run.model)))


def test_what_wrapped_the_model_saves_the_quantized_one(tmp_path):
    wrapper = prepare(adapted("llama"), "int4", RANGES)
    converted = convert(wrapper)
    wrapper.save_pretrained(tmp_path)
    loaded = auto_class("llama").from_pretrained(tmp_path).eval()
    assert torch.equal(outputs(loaded), outputs(converted.eval()))
    assert not (tmp_path / "adapter_config.json").exists()
    assert wrapper.push_to_hub == converted.push_to_hub


def test_the_best_adapter_is_the_one_that_is_converted(tmp_path):
    run = training(
        tmp_path,
        max_steps=6,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        learning_rate=5e-3,
    )
    run.train()
    best = PeftModel.from_pretrained(tiny_model("llama"), run.state.best_model_checkpoint)
    expected = hf_quant.quantize(best.merge_and_unload(), "int4", progress=False)
    assert same(state(expected), state(run.model))


def test_modules_that_are_trained_whole_are_rounded_too(tmp_path):
    source = tiny_model("bert", BertForSequenceClassification)
    settings = lora_config("bert", task_type="SEQ_CLS", modules_to_save=["classifier"])
    model = get_peft_model(copy.deepcopy(source), settings)
    with torch.no_grad():
        model.base_model.model.classifier.modules_to_save["default"].weight.add_(1)
    model.save_pretrained(tmp_path)
    merged = PeftModel.from_pretrained(copy.deepcopy(source), tmp_path).merge_and_unload()
    expected = hf_quant.quantize(merged, "int4", progress=False)
    converted = convert(prepare(model, "int4", RANGES))
    assert same(state(converted), state(expected))
    assert "classifier" in dict(quantized_modules(converted))


def test_disabled_adapters_leave_the_base_alone():
    model = adapted("llama")
    plain = hf_quant.quantize(tiny_model("llama"), "int4", progress=False)
    prepare(model, "int4", RANGES)
    model.eval()
    with model.disable_adapter():
        assert error(outputs(model), outputs(plain)) < 2e-2
    assert error(outputs(model), outputs(plain)) > 0.05


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"lora_dropout": 0.1}, "lora_dropout=0"),
        ({"use_dora": True}, "plain LoRA"),
        ({"bias": "all"}, "biases"),
        ({"target_modules": ["embed_tokens", "q_proj"]}, "linears"),
    ],
)
def test_what_cannot_be_merged_is_refused_with_the_fix_and_left_as_it_was(changes, says):
    model = get_peft_model(tiny_model("llama"), lora_config("llama", **changes))
    before = state(model)
    with pytest.raises(UnsupportedModel, match=says):
        prepare(model, "int4", RANGES)
    assert same(before, state(model)) and not list(fake_quantized_modules(model))


@pytest.mark.parametrize(
    ("config", "options", "says"),
    [("int4", QATOptions(), "minmax"), (HfQuantConfig(scheme=STATIC), RANGES, "dynamically")],
)
def test_what_a_checkpoint_of_peft_would_not_hold_is_refused(config, options, says):
    model = adapted("llama")
    expected = outputs(model.eval())
    with pytest.raises(ConfigError, match=says):
        prepare(model, config, options)
    assert torch.equal(outputs(model), expected)


def test_two_adapters_are_refused():
    model = adapted("llama")
    model.add_adapter("second", lora_config("llama"))
    with pytest.raises(UnsupportedModel, match="delete_adapter"):
        prepare(model, "int4", RANGES)


def test_adapters_of_transformers_own_interface_are_refused():
    model = tiny_model("llama")
    model.add_adapter(lora_config("llama"))
    with pytest.raises(UnsupportedModel, match="get_peft_model"):
        prepare(model, "int4", RANGES)


def test_linears_that_the_plan_keeps_float_are_merged_in_float():
    model = adapted("llama")
    merged = copy.deepcopy(model).merge_and_unload()
    config = HfQuantConfig("int4", overrides={"*.down_proj": None})
    expected = hf_quant.quantize(merged, config, progress=False)
    prepare(model, config, RANGES)
    converted = convert(model)
    assert same(state(converted), state(expected))
    assert not any(name.endswith("down_proj") for name, _ in quantized_modules(converted))
