import gc
import logging
import os

import pytest
import torch
from safetensors.torch import load_file
from torch.multiprocessing.reductions import StorageWeakRef

import hf_quant
from hf_quant import HfQuantConfig
from hf_quant.algorithms.base import MEANS
from hf_quant.calibration.collect import Collector
from hf_quant.formats import even_format
from hf_quant.modules.experts import expert_layers
from hf_quant.modules.state import stored_state
from hf_quant.observers import OBSERVERS
from hf_quant.observers.base import grid
from hf_quant.opening.open import opened
from hf_quant.quantizing.calibrated import CalibratedRun
from tests.integration.calibration_data import HELD_OUT, calibration, config, sequences
from tests.integration.moe import moe_model
from tests.integration.test_distributed_runs import in_all_ranks
from tests.integration.tiny import error, outputs, saved_tensors
from tests.integration.tiny_experts import FAMILIES, expert_model


def few_tokens():
    """Two short sequences: experts get some of 13 tokens, or none."""
    return calibration(sequences((8, 5)), samples=2, sequence_length=8)


def quantized(name, preset, data=None, folder=None, spiky=False, **recipe):
    given = HfQuantConfig(preset, recipe=recipe or None, calibration=data or calibration())
    return hf_quant.quantize(expert_model(name, spiky=spiky), given, progress=False, resume=folder)


def state(model):
    return {name: tensor.clone() for name, tensor in stored_state(model, model.state_dict()).items()}


def same(found, expected):
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def lost(model, name, spiky=False):
    """Relative error of the logits on sequences that calibration did not see."""
    return error(outputs(model, HELD_OUT), outputs(expert_model(name, spiky=spiky), HELD_OUT))


@pytest.mark.parametrize("name", FAMILIES)
def test_solvers_with_data_lose_less_than_rounding(name):
    rounding = lost(hf_quant.quantize(expert_model(name), "w4a16", progress=False), name)
    solvers = [{"mse": {"importance": True}}, "gptq", *([{"signround": {"steps": 20}}] if name == "mixtral" else [])]
    for solver in solvers:
        found = quantized(name, "w4a16", solver=solver)
        assert lost(found, name) < rounding, solver
        assert not found.hf_quantizer.starved_experts


@pytest.mark.parametrize("name", FAMILIES)
def test_every_transform_loses_no_more_than_doing_without(name):
    for preset, chosen in (("w4a16", ["awq"]), ("w4a16", ["awq-clip"]), ("int8-static", ["smoothquant"])):
        data = calibration() if preset == "int8-static" else None
        plain = HfQuantConfig(preset, calibration=data)
        without = lost(hf_quant.quantize(expert_model(name, spiky=True), plain, progress=False), name, spiky=True)
        assert lost(quantized(name, preset, spiky=True, transforms=chosen), name, spiky=True) < without, chosen


def test_biases_of_experts_make_up_for_mean_errors_where_there_are_tokens_to_tell_them():
    bias = expert_model("gpt-oss").model.layers[0].mlp.experts.gate_up_proj_bias[0, ::2]
    for data, changes in ((calibration(), True), (few_tokens(), False)):
        found = quantized("gpt-oss", "w4a16", data, bias_correction=True)
        corrected = found.model.layers[0].mlp.experts.get_submodule("0.gate_proj").bias
        assert torch.equal(corrected, bias) != changes
        assert error(corrected, bias) < 0.5


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_checkpoint_and_one_quantized_at_load_are_the_same_bits(name, tmp_path):
    expert_model(name).save_pretrained(tmp_path / "float")
    given = config("int8-static", transforms=["smoothquant"], solver="gptq")
    loaded = type(expert_model(name)).from_pretrained(tmp_path / "float", quantization_config=given)
    found = hf_quant.quantize(expert_model(name), given, progress=False)
    assert same(state(loaded), state(found))
    found.save_pretrained(tmp_path / "quantized")
    again = type(found).from_pretrained(tmp_path / "quantized")
    assert torch.equal(outputs(again, HELD_OUT), outputs(found, HELD_OUT))


@pytest.mark.parametrize("solver", ["gptq", {"mse": {"importance": True}}, {"signround": {"steps": 3}}])
def test_experts_with_few_tokens_are_rounded_to_nearest(solver, caplog):
    with caplog.at_level(logging.WARNING):
        found = quantized("qwen3-moe", "w4a16", few_tokens(), solver=solver)
    plain = state(hf_quant.quantize(expert_model("qwen3-moe"), "w4a16", progress=False))
    codes = state(found)
    assert all(torch.equal(codes[name], plain[name]) for name in codes if ".experts." in name)
    if solver == "gptq":  # signround may find nothing better
        assert not all(torch.equal(codes[name], plain[name]) for name in codes if ".self_attn." in name)
    starved = found.hf_quantizer.starved_experts
    assert starved.keys() == {name for name in found.hf_quantizer.resolution.plan if ".experts." in name}
    assert set(starved.values()) <= set(range(MEANS)) and sum(starved.values()) == 3 * 2 * 2 * 13
    (warning,) = [record.getMessage() for record in caplog.records if "too few tokens" in record.getMessage()]
    assert warning.startswith("16 of 16 experts, in 2 layers, got too few tokens") and len(warning) < 500


def test_only_experts_with_too_few_tokens_are_rounded():
    found = quantized("qwen3-moe", "w4a16", calibration(sequences((32,) * 8), samples=8), solver="gptq")
    starved, plan = found.hf_quantizer.starved_experts, found.hf_quantizer.resolution.plan
    plain, codes = state(hf_quant.quantize(expert_model("qwen3-moe"), "w4a16", progress=False)), state(found)
    assert 0 < len(starved) < len([name for name in plan if ".experts." in name])
    # As wide as the hidden states are gates; down_proj has half as many inputs.
    assert all(tokens < (32 if name.endswith("down_proj") else 64) for name, tokens in starved.items())
    for name in plan:
        if ".experts." in name:
            assert torch.equal(codes[f"{name}.weight"], plain[f"{name}.weight"]) == (name in starved), name


def test_a_static_input_of_an_expert_without_tokens_is_the_widest_of_its_layer():
    found = quantized("qwen3-moe", "int8-static", few_tokens(), observer="minmax")
    starved = found.hf_quantizer.starved_experts
    assert 0 in starved.values()  # this is about some that got none
    model = expert_model("qwen3-moe")
    with opened(model):
        (name, layer), *_ = expert_layers(model)
        names = [f"{name}.{e}.{part}" for e in range(layer.experts) for part in ("gate_proj", "down_proj")]
        scheme = found.hf_quantizer.resolution.plan.modules[names[0]]
        rotations = {n: found.hf_quantizer.resolution.plan.modules[n].weight.rotation for n in names}
        observer = {n: OBSERVERS["minmax"](even_format(scheme.input)) for n in names}
        collector = Collector(
            model, {n: model.get_submodule(n) for n in names}, observers=observer, rotations=rotations
        )
        with collector.watching(), torch.no_grad():
            for sequence in sequences((8, 5)):
                collector.next_batch(None)
                model(input_ids=sequence[None])
    for part in ("gate_proj", "down_proj"):
        seen = [each for n, each in observer.items() if n.endswith(part) and each.state()]
        widest = OBSERVERS["minmax"](even_format(scheme.input))
        for each in seen:
            widest.merge(each)
        scale, _ = grid(widest)
        for expert in range(8):
            module = found.get_submodule(f"{name}.{expert}.{part}")
            torch.testing.assert_close(module.input_scale, scale.view(1), rtol=0.05, atol=0)


def test_padding_changes_nothing():
    long, short = sequences((16, 9))
    apart = calibration([long, short], samples=2, sequence_length=16, batch_size=1)
    together = calibration([long, short], samples=2, sequence_length=16, batch_size=2)
    for name, recipe in (("mixtral", {"transforms": ["smoothquant"]}), ("gpt-oss", {"observer": "minmax"})):
        first = quantized(name, "int8-static", apart, **recipe)
        second = quantized(name, "int8-static", together, **recipe)
        assert first.hf_quantizer.starved_experts == second.hf_quantizer.starved_experts
        scales = [key for key in state(first) if key.endswith("input_scale")]
        for key in scales:
            torch.testing.assert_close(state(first)[key], state(second)[key], rtol=1e-3, atol=0)


class Interrupted(Exception):
    """What ends a run in the middle."""


@pytest.mark.parametrize("data", [calibration, few_tokens], ids=["fed", "starved"])
def test_an_interrupted_run_is_gone_on_with_bit_for_bit(data, tmp_path, monkeypatch):
    given = {"preset": "int8-static", "transforms": ["smoothquant"], "solver": "gptq"}
    whole = quantized("gpt-oss", data=data(), **given)
    replace, count = os.replace, iter(range(100))

    def failing(source, target):
        if next(count) == 4:  # the first block is kept, the second is not
            raise Interrupted
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing)
        with pytest.raises(Interrupted):
            quantized("gpt-oss", data=data(), folder=tmp_path / "progress", **given)
    assert len(list((tmp_path / "progress").glob("step-*.safetensors"))) == 1
    model = quantized("gpt-oss", data=data(), folder=tmp_path / "progress", **given)
    assert same(state(model), state(whole))
    assert model.hf_quantizer.starved_experts == whole.hf_quantizer.starved_experts
    assert bool(whole.hf_quantizer.starved_experts) == (data is few_tokens)


@pytest.mark.parametrize("recipe", [{}, {"transforms": ["awq"]}, {"solver": "gptq"}], ids=str)
def test_stacks_of_a_block_are_freed_before_the_next(recipe, monkeypatch):
    model = expert_model("qwen3-moe")
    first = model.model.layers[0].mlp.experts
    stacks = [StorageWeakRef(p.untyped_storage()) for p in first.parameters()]
    seen = []
    original = CalibratedRun._quantize_block

    def quantize_block(run, index, *args):
        if index == 1:
            gc.collect()
            seen.append([stack.expired() for stack in stacks])
        return original(run, index, *args)

    monkeypatch.setattr(CalibratedRun, "_quantize_block", quantize_block)
    hf_quant.quantize(
        model, HfQuantConfig("int8-static", recipe=recipe or None, calibration=calibration()), progress=False
    )
    assert seen == [[True, True]]


RANKS = """
    import sys
    from accelerate import PartialState
    from safetensors.torch import save_file
    from tests.integration.test_calibrated_experts import few_tokens, quantized, state

    rank = PartialState(cpu=True).process_index
    model = quantized("qwen3-moe", "int8-static", few_tokens(), transforms=["smoothquant"], solver="gptq")
    save_file(state(model), f"{sys.argv[1]}/{rank}.safetensors")
    print(sum(model.hf_quantizer.starved_experts.values()))
"""


def test_ranks_that_see_other_experts_end_with_the_same_bits(tmp_path):
    printed = in_all_ranks(RANKS, tmp_path)
    assert same(*(load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1)))
    assert [each.split()[-1] for each in printed] == [str(3 * 2 * 2 * 13)] * 2
    assert saved_tensors(tmp_path)


@pytest.mark.filterwarnings("ignore:.*found no pair of modules to scale:UserWarning")
@pytest.mark.parametrize("family", ["DeepseekV3", "Llama4", "JetMoe", "NemotronH"])
@pytest.mark.parametrize("recipe", [{"solver": "gptq"}, {"transforms": ["awq"]}], ids=str)
def test_experts_that_are_held_or_called_in_other_ways_are_calibrated(family, recipe):
    model = moe_model(family)
    expected = outputs(model, HELD_OUT)
    config = HfQuantConfig("w8a16", recipe=recipe, calibration=calibration())
    assert error(outputs(hf_quant.quantize(model, config, progress=False), HELD_OUT), expected) < 0.1
