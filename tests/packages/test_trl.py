"""Adapters that TRL trains on quantized models: from a path, from a quantized checkpoint, and gone on with."""

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM

from hf_quant.modules.base import QuantizedModule
from hf_quant.quantizing.config import HfQuantConfig
from tests.integration.adapters import codes, same
from tests.integration.tiny import outputs
from tests.packages.models import PRESETS, chat_checkpoint, quantized, slow

trl = pytest.importorskip("trl", reason="pip install --no-deps -r requirements-slow.txt")
pytestmark = slow

TEXTS = [{"text": f"hello number {i} and so on"} for i in range(8)]
PREFERENCES = [{"prompt": f"question {i}", "chosen": " a good answer", "rejected": " a bad one"} for i in range(8)]
OPTIONS = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "logging_steps": 1, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Directories by preset, `None` the float one, each with a tokenizer; and the tokenizer."""
    root = tmp_path_factory.mktemp("trl")
    directories = {None: root / "llama"}
    tokenizer = chat_checkpoint(directories[None])
    for preset in PRESETS:
        directories[preset] = root / preset
        quantized(directories[None], preset).save_pretrained(directories[preset])
        tokenizer.save_pretrained(directories[preset])
    return directories, tokenizer


def lora():
    return LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")


def supervised(model, tokenizer, directory, steps=3, **options):
    own = {name: options.pop(name) for name in ("quantization_config", "eval_dataset") if name in options}
    arguments = trl.SFTConfig(
        str(directory), max_steps=steps, per_device_train_batch_size=2, **{"bf16": False, **OPTIONS, **options}
    )
    data = Dataset.from_list(TEXTS)
    torch.manual_seed(0)
    return trl.SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer, peft_config=lora(), **own)


def check_trained(trainer, before):
    """Whether every adapter learned, the loss is a number, and no code changed."""
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses and all(0 < loss < 100 for loss in losses)
    assert any(isinstance(module, QuantizedModule) for module in trainer.model.modules())
    assert same(before, codes(trainer.model))
    adapters = [parameter for name, parameter in trainer.model.named_parameters() if "lora_B" in name]
    assert adapters and all(parameter.abs().sum() > 0 for parameter in adapters)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("preset", PRESETS)
def test_supervised_training_from_a_path_and_a_config(preset, bf16, checkpointing, checkpoints, tmp_path):
    directories, tokenizer = checkpoints
    trainer = supervised(
        str(directories[None]),
        tokenizer,
        tmp_path,
        bf16=bf16,
        gradient_checkpointing=checkpointing,
        save_strategy="no",
        quantization_config=HfQuantConfig(preset),
    )
    before = codes(trainer.model)
    trainer.train()
    check_trained(trainer, before)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_run_on_a_quantized_checkpoint_is_evaluated_saved_and_resumed(preset, checkpoints, tmp_path):
    directories, tokenizer = checkpoints
    options = {"eval_strategy": "steps", "eval_steps": 2, "save_steps": 2, "eval_dataset": Dataset.from_list(TEXTS)}
    whole = supervised(str(directories[preset]), tokenizer, tmp_path, steps=4, **options)
    before = codes(whole.model)
    whole.train()
    check_trained(whole, before)
    evaluated = [entry["eval_loss"] for entry in whole.state.log_history if "eval_loss" in entry]
    assert len(evaluated) == 2 and evaluated[1] < evaluated[0]

    resumed = supervised(str(directories[preset]), tokenizer, tmp_path, steps=4, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    expected = outputs(whole.model.eval())
    torch.testing.assert_close(outputs(resumed.model.eval()), expected, rtol=0, atol=1e-4)

    base = AutoModelForCausalLM.from_pretrained(directories[preset])
    reloaded = PeftModel.from_pretrained(base, tmp_path / "checkpoint-4").eval()
    assert torch.equal(outputs(reloaded), expected)


@pytest.mark.parametrize("given", ["path", "checkpoint", "model"])
def test_preferences_are_trained_against_the_model_without_its_adapter(given, checkpoints, tmp_path):
    directories, tokenizer = checkpoints
    model = str(directories[None if given == "path" else "int4"])
    own = {"quantization_config": HfQuantConfig("int4")} if given == "path" else {}
    if given == "model":
        model = AutoModelForCausalLM.from_pretrained(model)
    arguments = trl.DPOConfig(
        str(tmp_path), max_steps=3, per_device_train_batch_size=2, save_strategy="no", bf16=False, **OPTIONS
    )
    trainer = trl.DPOTrainer(
        model,
        args=arguments,
        train_dataset=Dataset.from_list(PREFERENCES),
        processing_class=tokenizer,
        peft_config=lora(),
        **own,
    )
    before = codes(trainer.model)
    trainer.train()
    check_trained(trainer, before)
    first = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert float(first["loss"]) == pytest.approx(0.6931, abs=1e-3), "a fresh adapter agrees with its reference"
