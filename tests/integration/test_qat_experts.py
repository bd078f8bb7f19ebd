import logging

import pytest
import torch
from transformers import AutoModelForCausalLM

import hf_quant
from hf_quant import HfQuantConfig
from hf_quant.errors import ConfigError
from hf_quant.fusion.fuse import unfuse
from hf_quant.integration import attention
from hf_quant.modules.opened import opened_modules
from hf_quant.modules.swap import quantized_modules
from hf_quant.qat.convert import take_out
from hf_quant.qat.distillation import Distillation
from hf_quant.qat.options import QATOptions
from hf_quant.qat.prepare import fake_quantized_modules
from hf_quant.workflows.distill import make_teacher
from hf_quant.workflows.qat import convert, prepare
from tests.integration.qat_training import STATIC, Rows, same, state, trainer
from tests.integration.tiny import error, outputs, saved_tensors, token_ids
from tests.integration.tiny_experts import FAMILIES, expert_model

TRAINED = ("mixtral", "qwen3-moe")


def loss_of(model):
    ids = Rows().ids
    with torch.no_grad():
        return model.eval()(input_ids=ids, labels=ids).loss.item()


def routers(model):
    return {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if name.endswith(("mlp.gate.weight", "router.weight"))
    }


@pytest.mark.parametrize("name", TRAINED)
def test_training_lowers_the_loss_and_what_was_evaluated_is_converted_saved_and_loaded(name, tmp_path):
    run = trainer(tmp_path / "run", "int4", model=expert_model(name), convert=False, max_steps=12, learning_rate=3e-3)
    before, untrained = loss_of(run.model), routers(run.model)
    run.train()
    model = run.model
    assert loss_of(model) < 0.95 * before
    assert untrained and not any(torch.equal(new, untrained[key]) for key, new in routers(model).items())
    evaluated = outputs(model.eval())
    assert convert(model) is model
    assert any(".experts." in module for module, _ in quantized_modules(model))
    fused = outputs(model)
    model.save_pretrained(tmp_path / "quantized")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "quantized")
    assert torch.equal(outputs(loaded), fused)
    assert error(fused, evaluated) < 2e-2
    unfuse(model)
    attention.restore(model)
    assert torch.equal(outputs(model), evaluated)


@pytest.mark.parametrize("name", TRAINED)
def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(name, tmp_path):
    whole = trainer(tmp_path, "int4", model=expert_model(name), convert=False, save_strategy="steps", save_steps=4)
    whole.train()
    again = trainer(tmp_path, "int4", model=expert_model(name, seed=1), convert=False)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert same(state(again.model), state(whole.model))
    held = saved_tensors(tmp_path / "checkpoint-4")
    assert "model.layers.0.mlp.experts.gate_up_proj" in held
    assert "model.layers.0.mlp.experts.0.gate_proj.weight_quantizer.grid.scale" in held


def test_experts_without_tokens_have_no_gradient_and_stay_as_they_are():
    model = prepare(expert_model("qwen3-moe"), "int4").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    ids = token_ids(rows=1, length=2)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    experts = {name: p for name, p in model.named_parameters() if ".experts." in name and name.endswith("proj.weight")}
    idle = {name for name, parameter in experts.items() if parameter.grad is None}
    assert 0 < len(idle) < len(experts)
    for name, parameter in experts.items():
        assert torch.equal(parameter, before[name]) == (name in idle), name


@pytest.mark.parametrize("name", FAMILIES)
def test_without_a_step_min_max_training_converts_to_what_quantize_gives(name):
    model = prepare(expert_model(name), "int4", QATOptions(weights="minmax"))
    quantized = hf_quant.quantize(expert_model(name), "int4", progress=False)
    assert torch.equal(outputs(convert(model)), outputs(quantized))


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`:UserWarning")
def test_a_model_is_loaded_to_be_trained_from_floats_and_from_codes(tmp_path):
    expert_model("mixtral").save_pretrained(tmp_path / "float")
    given = HfQuantConfig("int4", qat=True)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "float", quantization_config=given, dtype="float32")
    assert any(".experts." in name for name, _ in fake_quantized_modules(model))
    trainer(tmp_path / "run", None, model=model, max_steps=2).train()
    model.save_pretrained(tmp_path / "quantized")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "quantized", quantization_config=HfQuantConfig(qat=True))
    assert error(outputs(again.eval()), outputs(model)) < 2e-2
    trainer(tmp_path / "run", None, model=again, max_steps=2).train()
    assert torch.isfinite(outputs(again)).all()


def test_leaving_training_gives_back_the_stacked_floats(tmp_path):
    expert_model("mixtral").save_pretrained(tmp_path / "before")
    model = prepare(expert_model("mixtral"), "int4").train()
    ids = token_ids()
    model(input_ids=ids, labels=ids).loss.backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    masters = state(model)
    take_out(model)
    assert not any(True for _ in opened_modules(model))
    assert dict(model.named_parameters()).keys() == dict(expert_model("mixtral").named_parameters()).keys()
    key = "model.layers.1.mlp.experts.down_proj"
    assert torch.equal(model.get_parameter(key), masters[key])
    assert not torch.equal(model.get_parameter(key), expert_model("mixtral").get_parameter(key))
    del model._hf_quant_prepared
    model.save_pretrained(tmp_path / "after")
    assert saved_tensors(tmp_path / "after").keys() == saved_tensors(tmp_path / "before").keys()
    assert torch.equal(outputs(AutoModelForCausalLM.from_pretrained(tmp_path / "after")), outputs(model.eval()))


@pytest.mark.parametrize("int8", [False, True])
def test_a_teacher_with_experts_is_learned_from(int8, tmp_path):
    settings = Distillation(labels=0.0, hidden=1.0, int8_teacher=int8)
    student = expert_model("qwen3-moe")
    teacher = make_teacher("self", student, settings)
    assert any(".experts." in name for name, _ in quantized_modules(teacher)) == int8
    assert error(outputs(teacher), outputs(student)) < (0.1 if int8 else 1e-6)
    run = trainer(tmp_path, "int4", model=student, convert=False, teacher=teacher, distillation=settings, max_steps=12)
    before = error(outputs(run.model.eval()), outputs(teacher))
    run.train()
    assert error(outputs(run.model.eval()), outputs(teacher)) < before


def test_static_inputs_of_experts_that_nothing_reached_take_the_widest_range(tmp_path, caplog):
    run = trainer(
        tmp_path, HfQuantConfig(scheme=STATIC), model=expert_model("qwen3-moe"), max_steps=3, observer_steps=1,
        per_device_train_batch_size=1,
    )  # fmt: skip
    run.train_dataset.ids = run.train_dataset.ids[:, :2]
    with caplog.at_level(logging.WARNING):
        run.train()
    (warning,) = [each.getMessage() for each in caplog.records if "that no token reached" in each.getMessage()]
    assert "widest range" in warning
    assert torch.isfinite(outputs(run.model)).all()


def test_an_optimizer_made_before_trains_the_opened_experts(tmp_path):
    model = expert_model("mixtral")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = state(model)
    run = trainer(tmp_path, "int4", model=model, convert=False, max_steps=2, more={"optimizers": (optimizer, None)})
    run.train()
    key = "model.layers.0.mlp.experts.gate_up_proj"
    assert not torch.equal(state(run.model)[key], before[key])
    model = expert_model("mixtral")
    used = torch.optim.AdamW(model.parameters())
    ids = token_ids()
    model(input_ids=ids, labels=ids).loss.backward()
    used.step()
    with pytest.raises(ConfigError, match="has states of stacked experts"):
        trainer(tmp_path, "int4", model=model, more={"optimizers": (used, None)})


def test_experts_train_under_autocast():
    model = prepare(expert_model("mixtral"), "int4").train()
    ids = token_ids()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert loss.item() == pytest.approx(model(input_ids=ids, labels=ids).loss.item(), rel=0.05)
