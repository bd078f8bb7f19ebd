"""Plans as a search gives them, with all numbers of bits side by side, are carried out, reloaded and trained."""

import pytest
import torch

import hf_quant
from hf_quant import HfQuantConfig, Plan
from hf_quant.fusion.fuse import unfuse
from hf_quant.integration import attention
from hf_quant.modules.inventory import Inventory
from hf_quant.modules.swap import quantized_modules
from hf_quant.planner.cost.disk import plan_bytes
from hf_quant.planner.offered import SCHEMES
from hf_quant.workflows.qat import convert
from tests.integration.qat_training import trainer
from tests.integration.test_qat import trained
from tests.integration.tiny import FAMILIES, auto_class, error, outputs, tiny_model

EVERY = (*SCHEMES.values(), None)


def mixed(name):
    """Each of the schemes that a search offers, module after module; tied ones have one choice."""
    model, schemes = tiny_model(name), {}
    ties = Inventory.of(model).ties
    for number, module in enumerate(each for each in Inventory.of(model).candidates if each not in ties):
        schemes[module] = EVERY[number % len(EVERY)]
    schemes |= {module: schemes[owner] for module, owner in ties.items()}
    return Plan(schemes)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_plan_of_all_bits_is_saved_to_the_byte_and_reloaded_to_the_bit(name, tmp_path):
    plan = mixed(name)
    model = hf_quant.quantize(tiny_model(name), HfQuantConfig(plan=plan), progress=False)
    bits = {module.spec.scheme.weight.bits for _, module in quantized_modules(model)}
    assert bits == {2, 3, 4, 5, 6, 8}
    model.save_pretrained(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.safetensors")) == plan_bytes(tiny_model(name), plan)
    assert torch.equal(outputs(auto_class(name).from_pretrained(tmp_path).eval()), outputs(model))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_checkpoint_loads_under_the_plan_as_the_model_in_memory_is_quantized(name, tmp_path):
    plan = mixed(name)
    tiny_model(name).save_pretrained(tmp_path)
    loaded = auto_class(name).from_pretrained(tmp_path, quantization_config=HfQuantConfig(plan=plan)).eval()
    model = hf_quant.quantize(tiny_model(name), HfQuantConfig(plan=plan), progress=False)
    assert torch.equal(outputs(loaded), outputs(model))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_same_plan_trains_and_what_was_evaluated_is_what_is_saved(name, tmp_path):
    model = trained(name, HfQuantConfig(plan=mixed(name)))
    evaluated = outputs(model)
    convert(model)
    fused = outputs(model)
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(auto_class(name).from_pretrained(tmp_path).eval()), fused)
    assert error(fused, evaluated) < 3e-2  # 2-bit modules beside others: a code that falls the other way counts more
    unfuse(model)
    attention.restore(model)
    assert torch.equal(outputs(model), evaluated)


def test_a_trainer_takes_the_plan(tmp_path):
    plan = mixed("llama")
    run = trainer(tmp_path, HfQuantConfig(plan=plan), name="llama", max_steps=2)
    run.train()
    trained_schemes = {name: module.spec.scheme for name, module in quantized_modules(run.model)}
    planned = hf_quant.quantize(tiny_model("llama"), HfQuantConfig(plan=plan), progress=False)
    assert trained_schemes == {name: module.spec.scheme for name, module in quantized_modules(planned)}
