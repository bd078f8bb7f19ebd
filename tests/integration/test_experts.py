"""Mixture-of-experts models: every expert quantized, on the fly and in memory, saved and reloaded."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

import hf_quant
from hf_quant import HfQuantConfig
from hf_quant.errors import CheckpointError, PlanError, WeightError
from hf_quant.modules.base import QuantizedModule
from hf_quant.modules.opened import Opened
from tests.integration.moe import FAMILIES, moe_model
from tests.integration.tiny import error, outputs, token_ids
from tests.naming import naming

NAME = "model.layers.0.mlp.experts"


def saved(model, directory, **kwargs):
    model.save_pretrained(directory, **kwargs)
    return directory


def load(directory, config=None, **kwargs):
    given = {} if config is None else {"quantization_config": config}
    return AutoModelForCausalLM.from_pretrained(directory, **given, **kwargs)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_way_to_a_quantized_model_gives_the_same_one(family, tmp_path):
    model = moe_model(family)
    original = saved(model, tmp_path / "float", max_shard_size="100KB")
    for preset in ("int8", "int4", "w4a16"):
        with naming(preset):
            loaded = load(original, HfQuantConfig(preset))
            expected = outputs(loaded)
            opened = [module for module in loaded.modules() if isinstance(module, Opened)]
            assert opened and not any(module.is_float() for module in opened)
            in_memory = hf_quant.quantize(copy.deepcopy(model), preset, progress=False)
            assert torch.equal(outputs(in_memory), expected)
            reloaded = load(saved(loaded, tmp_path / preset, max_shard_size="100KB"))
            assert torch.equal(outputs(reloaded), expected)
            ids = token_ids(1, 6)
            generated = loaded.generate(ids, max_new_tokens=5, do_sample=False)
            assert torch.equal(reloaded.generate(ids, max_new_tokens=5, do_sample=False), generated)
            restored = reloaded.dequantize()
            if preset == "w4a16":
                assert error(outputs(restored), expected) < 1e-3
            assert restored.state_dict().keys() == model.state_dict().keys()
            again = load(saved(restored, tmp_path / "restored"))
            assert error(outputs(again), outputs(restored)) < 1e-5


def test_sizes_are_those_of_the_codes(tmp_path):
    model = moe_model("Mixtral", hidden_size=256, intermediate_size=512)
    whole = sum(parameter.numel() * 4 for parameter in model.parameters())
    for preset, share in (("int8", 0.27), ("int4", 0.175)):
        directory = saved(hf_quant.quantize(copy.deepcopy(model), preset, progress=False), tmp_path / preset)
        assert (directory / "model.safetensors").stat().st_size < share * whole


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_loads_saves_and_reloads(dtype, tmp_path):
    original = saved(moe_model("Qwen3Moe").to(dtype), tmp_path / "float")
    loaded = load(original, HfQuantConfig("int8"), dtype=dtype)
    assert {type(module).__name__ for module in loaded.modules() if isinstance(module, Opened)} == {"Qwen3MoeExperts"}
    assert loaded.dtype == dtype
    assert torch.equal(outputs(load(saved(loaded, tmp_path / "int8"))), outputs(loaded))


def test_a_bare_model_is_loaded_from_the_checkpoint_of_the_whole(tmp_path):
    quantized = load(saved(moe_model("Qwen3Moe"), tmp_path / "float"), HfQuantConfig("w8a16"))
    expected = quantized.model(token_ids()).last_hidden_state
    directory = saved(quantized, tmp_path / "quantized")
    assert torch.equal(AutoModel.from_pretrained(directory)(token_ids()).last_hidden_state, expected)
    saved(quantized.model, tmp_path / "bare")
    assert torch.equal(AutoModel.from_pretrained(tmp_path / "bare")(token_ids()).last_hidden_state, expected)


@pytest.mark.parametrize("family", ["Mixtral", "Qwen3Moe", "GptOss"])
def test_experts_of_one_layer_may_stay_float(family, tmp_path):
    config = HfQuantConfig("int8", modules_to_not_convert=["layers.1.mlp.experts"])
    loaded = load(saved(moe_model(family), tmp_path / "float"), config)
    assert isinstance(loaded.get_submodule(NAME), Opened)
    left = loaded.get_submodule("model.layers.1.mlp.experts")
    assert not isinstance(left, Opened) and torch.equal(
        left.down_proj, moe_model(family).model.layers[1].mlp.experts.down_proj
    )
    reloaded = load(saved(loaded, tmp_path / "quantized"))
    assert torch.equal(outputs(reloaded), outputs(loaded))


@pytest.mark.parametrize("family", ["Mixtral", "Qwen3Moe", "GptOss"])
def test_single_experts_may_stay_float_or_get_another_scheme(family, tmp_path):
    overrides = {f"{NAME}.0.*": None, f"{NAME}.1.down_proj": "fp16"}
    loaded = load(saved(moe_model(family), tmp_path / "float"), HfQuantConfig("w8a16", overrides=overrides))
    experts = loaded.get_submodule(NAME)
    assert not isinstance(experts.get_submodule("0.up_proj"), QuantizedModule)
    assert experts.get_submodule("1.down_proj").weight.dtype == torch.float16
    in_memory = hf_quant.quantize(moe_model(family), HfQuantConfig("w8a16", overrides=overrides), progress=False)
    assert torch.equal(outputs(in_memory), outputs(loaded))
    left = in_memory.get_submodule(f"{NAME}.0.up_proj").weight
    assert left.untyped_storage().nbytes() == left.nbytes  # it keeps no stack in memory
    reloaded = load(saved(loaded, tmp_path / "quantized"))
    assert torch.equal(outputs(reloaded), outputs(loaded))
    assert error(outputs(reloaded.dequantize()), outputs(loaded)) < 1e-3


def test_routers_stay_float_and_nearly_nothing_else():
    model = hf_quant.quantize(moe_model("Qwen3Moe"), "int8", progress=False)
    report = hf_quant.inspect(model)
    assert not report.left_float
    assert all("norm" in name or name.endswith("mlp.gate") for name in report.float_modules)


def test_a_number_that_is_none_in_one_expert_is_refused_by_its_name(tmp_path):
    model = moe_model("GptOss")
    with torch.no_grad():
        model.get_submodule(NAME).gate_up_proj[2, 5, 7] = torch.nan  # an odd row: of up
    with pytest.raises(WeightError, match=rf"{NAME}\.2\.up_proj\.weight"):
        load(saved(model, tmp_path), HfQuantConfig("int8"))
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    with pytest.raises(WeightError, match=rf"{NAME}\.2\.up_proj\.weight"):
        hf_quant.quantize(model, "int8", progress=False)
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == before


def test_stacked_tensors_of_another_shape_are_refused(tmp_path):
    saved(moe_model("GptOss"), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = f"{NAME}.down_proj"
    tensors[name] = tensors[name][:3].contiguous()
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightError, match=rf"{NAME}\.down_proj has shape \(3, 96, 64\)"):
        load(tmp_path, HfQuantConfig("int8"))


def changed(directory, name, change):
    """The checkpoint with one tensor, of those whose names end so, changed; its name."""
    tensors = load_file(directory / "model.safetensors")
    full = next(each for each in tensors if each.endswith(name))
    tensors[full] = change(tensors[full]).contiguous()
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return full


@pytest.mark.parametrize(
    ("change", "told"),
    [(lambda t: t[:-8], r"has shape \(\d+, \d+\)"), (lambda t: t.to(torch.int32), "holds I32, not floats")],
    ids=["another shape", "integers"],
)
@pytest.mark.parametrize(("family", "part"), [("Mixtral", "w1"), ("Qwen3Moe", "down_proj")])
def test_one_expert_of_another_kind_than_the_others_is_refused_by_its_name(family, part, change, told, tmp_path):
    name = changed(saved(moe_model(family), tmp_path), f".experts.2.{part}.weight", change)
    with pytest.raises(WeightError, match=rf"{name} {told}"):
        load(tmp_path, HfQuantConfig("int8"))


@pytest.mark.parametrize("part", ["gate_proj", "down_proj"])
def test_a_quantized_checkpoint_in_which_one_expert_is_float_is_refused_by_its_name(part, tmp_path):
    saved(hf_quant.quantize(moe_model("Qwen3Moe"), "int8", progress=False), tmp_path)
    name = changed(tmp_path, f".experts.2.{part}.weight", torch.Tensor.float)
    with pytest.raises(CheckpointError, match=rf"{name} should be I32 .* holds F32"):
        load(tmp_path)


def test_a_checkpoint_that_lacks_an_expert_is_refused(tmp_path):
    saved(hf_quant.quantize(moe_model("Mixtral"), "int8", progress=False), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    for change in ({}, {f"{NAME}.3.up_proj.weight": torch.zeros(96, 64)}):
        found = {name: t for name, t in tensors.items() if not name.startswith(f"{NAME}.3.up_proj.weight")} | change
        save_file(found, tmp_path / "model.safetensors", {"format": "pt"})
        with naming(list(change)), pytest.raises(CheckpointError, match=rf"{NAME}\.3\.up_proj\.weight"):
            load(tmp_path)


def test_an_expert_that_is_not_there_is_refused_in_a_plan(tmp_path):
    with pytest.raises(PlanError, match=r"experts\.4\.up_proj"):
        hf_quant.quantize(moe_model("Mixtral"), HfQuantConfig("int8", overrides={f"{NAME}.4.up_proj": None}))
    saved(hf_quant.quantize(moe_model("Mixtral"), "int8", progress=False), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    modules = config["quantization_config"]["plan"]["modules"]
    modules[f"{NAME}.4.up_proj"] = next(iter(modules.values()))
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"experts\.4\.up_proj"):
        load(tmp_path)


def test_experts_that_the_checkpoint_lacks_stay_float_with_the_reason(tmp_path):
    saved(moe_model("GptOss"), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        {n: t for n, t in tensors.items() if "layers.1.mlp.experts" not in n},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    loaded = load(tmp_path, HfQuantConfig("int8"))
    assert isinstance(loaded.get_submodule(NAME), Opened)
    left = loaded.get_submodule("model.layers.1.mlp.experts")
    assert not isinstance(left, Opened)
    # Drawn as Transformers draws what is new.
    assert left.down_proj.std().item() == pytest.approx(loaded.config.initializer_range, rel=0.1)
    reasons = loaded.config.quantization_config.kept_float
    assert "not in the checkpoint" in reasons["model.layers.1.mlp.experts"]
