"""LoRA on a quantized base: trains, is saved, and is reloaded."""

import pytest
import torch
from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments

from tests.integration.adapters import codes, lora_config, same, train
from tests.integration.tiny import FAMILIES, auto_class, error, outputs, run_python, token_ids

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
"""PEFT reads an attribute that Transformers has renamed."""


@pytest.mark.parametrize("preset", ["int8", "int4"])
@pytest.mark.parametrize("name", FAMILIES)
def test_lora_learns_while_the_codes_stay_bit_for_bit(name, preset, load):
    base = load(name, preset)
    before, fresh = codes(base), outputs(base)
    model = get_peft_model(base, lora_config(name))
    # Adapters take linears out of fused blocks: sums in another order, which may round an input to another code.
    assert error(outputs(model), fresh) < 2e-2, "a fresh adapter is the identity"
    losses = train(model)
    assert losses[-1] < 0.9 * losses[0]
    assert same(before, codes(model))
    with model.disable_adapter():
        assert error(outputs(model), fresh) < 2e-2
    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in key for key in trained)


@pytest.mark.parametrize("preset", ["int8", "int4"])
@pytest.mark.parametrize("name", FAMILIES)
def test_an_adapter_is_saved_and_reloaded_onto_the_quantized_checkpoint(name, preset, quantized_checkpoints, tmp_path):
    path = quantized_checkpoints[name, preset]
    model = get_peft_model(auto_class(name).from_pretrained(path), lora_config(name))
    train(model, steps=4)
    model.eval().save_pretrained(tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.glob("*.safetensors")) < 60_000, "the adapter alone"
    reloaded = PeftModel.from_pretrained(auto_class(name).from_pretrained(path), tmp_path).eval()
    assert torch.equal(outputs(reloaded), outputs(model))


def test_an_adapter_is_reloaded_by_a_process_that_only_imports_the_plugin(quantized_checkpoints, tmp_path):
    paths = []
    for name in FAMILIES:
        path = quantized_checkpoints[name, "int4"]
        model = get_peft_model(auto_class(name).from_pretrained(path), lora_config(name))
        train(model, steps=4)
        model.eval().save_pretrained(tmp_path / name)
        torch.save(outputs(model), tmp_path / name / "logits.pt")
        paths += [path, tmp_path / name]
    code = """
        import sys
        import torch
        import hf_quant
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoModelForMaskedLM
        from tests.integration.tiny import outputs
        for base, adapter in zip(sys.argv[1::2], sys.argv[2::2]):
            auto_class = AutoModelForMaskedLM if "bert" in base else AutoModelForCausalLM
            model = PeftModel.from_pretrained(auto_class.from_pretrained(base), adapter).eval()
            assert torch.equal(outputs(model), torch.load(f"{adapter}/logits.pt")), adapter
            assert "LoraOnQuantized" in repr(model)
    """
    done = run_python(code, *paths)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", FAMILIES)
def test_add_adapter_and_load_adapter_of_transformers(name, load, tmp_path):
    model, other = load(name, "int8"), load(name, "int8")
    fresh = outputs(model)
    model.add_adapter(lora_config(name))
    losses = train(model)
    assert losses[-1] < losses[0]
    model.eval().save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists(), "an adapter was saved, not the base"
    other.load_adapter(str(tmp_path))
    assert torch.equal(outputs(other.eval()), outputs(model))
    assert error(outputs(other), fresh) > 2e-2
    other.disable_adapters()
    assert error(outputs(other), fresh) < 2e-2


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_prepare_model_for_kbit_training(name, dtype, load):
    base = load(name, "int4", dtype=dtype)
    before = codes(base)
    prepared = prepare_model_for_kbit_training(base, use_gradient_checkpointing=False)
    assert not any(parameter.requires_grad for parameter in prepared.parameters())
    assert same(before, codes(prepared))
    model = get_peft_model(prepared, lora_config(name))
    losses = train(model)
    assert losses[-1] < 0.9 * losses[0]
    assert same(before, codes(model))


class Rows(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        ids = token_ids(rows=8)[index]
        return {"input_ids": ids, "labels": ids}


@pytest.mark.parametrize("name", FAMILIES)
def test_checkpointed_gradients_and_evaluation_work_on_frozen_codes(name, quantized_checkpoints, tmp_path):
    path = quantized_checkpoints[name, "int4"]
    options = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "logging_steps": 1, "save_strategy": "no"}
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = get_peft_model(auto_class(name).from_pretrained(path), lora_config(name))
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        arguments = TrainingArguments(
            str(tmp_path),
            max_steps=4,
            eval_strategy="steps",
            eval_steps=2,
            optim="sgd",
            activation_checkpointing=checkpointing,
            **options,
        )
        run = Trainer(model, arguments, train_dataset=Rows(), eval_dataset=Rows())
        before = codes(model)
        run.train()
        assert same(before, codes(model))
        found.append([entry[key] for entry in run.state.log_history for key in ("loss", "eval_loss") if key in entry])
    assert len(found[0]) == 6 and found[1] == pytest.approx(found[0], rel=1e-3)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_trainer_trains_an_adapter_saves_and_resumes(name, quantized_checkpoints, tmp_path):
    path = quantized_checkpoints[name, "int8"]
    options = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "learning_rate": 1e-2, "logging_steps": 1}

    def trainer(steps):
        torch.manual_seed(0)
        model = get_peft_model(auto_class(name).from_pretrained(path), lora_config(name))
        arguments = TrainingArguments(str(tmp_path), max_steps=steps, save_steps=4, **options)
        return Trainer(model, arguments, train_dataset=Rows())

    whole = trainer(8)
    before = codes(whole.model)
    whole.train()
    losses = [entry["loss"] for entry in whole.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]
    assert same(before, codes(whole.model))
    resumed = trainer(8)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert torch.allclose(outputs(resumed.model.eval()), outputs(whole.model.eval()), atol=1e-4)
