"""Configs and files that are not what they should be are refused before a weight is read, with the fix."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from hf_quant import HfQuantConfig
from hf_quant.errors import CheckpointError, ConfigError, HfQuantError, LayoutError, SaveError
from hf_quant.importing.source import Source
from hf_quant.workflows.convert_checkpoint import convert_checkpoint
from tests.integration.tiny import run_python

FOLDER = Path(__file__).parent / "checkpoints"


@pytest.fixture
def place(tmp_path):
    """A checkpoint by name, with changes to its quantization config and its tensors."""

    def make(name, tensors=None, **said):
        folder = tmp_path / name
        shutil.copytree(FOLDER / name, folder)
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] |= said
        (folder / "config.json").write_text(json.dumps(config))
        if tensors is not None:
            found = load_file(folder / "model.safetensors")
            tensors(found)
            save_file(found, folder / "model.safetensors", {"format": "pt"})
        return folder

    return make


def group(**changes):
    """A group of compressed-tensors for all linears."""
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    return {"config_groups": {"g": {"targets": ["Linear"], "weights": weights, **changes}}}


@pytest.mark.parametrize(
    ("name", "said", "error", "match"),
    [
        ("gptq-4bit-v1", {"quant_method": "gptqq"}, ConfigError, "did you mean 'gptq'"),
        ("gptq-4bit-v1", {"quant_method": None}, ConfigError, "quant_method None"),
        ("gptq-4bit-v1", {"quant_method": "hf_quant"}, ConfigError, "from_pretrained opens it"),
        ("gptq-4bit-v1", {"checkpoint_format": "marlin"}, LayoutError, "no checkpoint_format of GPTQ 'marlin'"),
        ("gptq-4bit-v1", {"bits": 5}, LayoutError, "bits, not 5"),
        ("gptq-4bit-v1", {"bits": 8}, CheckpointError, "are not 128 codes of 8 bits"),
        ("gptq-4bit-v1", {"quant_method": "compressed-tensors"}, LayoutError, "no format of compressed-tensors 'gptq'"),
        ("autoround-gptq", {"packing_format": "auto_round:exllama"}, LayoutError, "packing_format"),
        ("awq-gemm", {"version": "gemv"}, LayoutError, "'gemv'"),
        ("awq-gemm", {"bits": 8}, LayoutError, "4 bits, not 8"),
        ("bnb-fp4", {}, LayoutError, "levels of FP4"),
        ("ct-w8a8", {"format": "float-quantized"}, LayoutError, "'float-quantized'"),
        ("ct-w8a8", {"format": 3}, LayoutError, "compressed-tensors 3"),
        ("ct-w8a8", {"kv_cache_scheme": {"num_bits": 8}}, LayoutError, "kv_cache_scheme"),
        ("ct-w8a8", {"transform_config": {"config_groups": {}}}, LayoutError, "transform_config"),
        ("ct-w8a8", {"sparsity_config": {"format": "sparse-24-bitmask"}}, LayoutError, "sparse"),
        ("ct-w8a8", {"config_groups": {}}, CheckpointError, "no config_groups"),
        ("ct-w8a8", group(targets=["re:.*nothing"]), CheckpointError, "no group of the config is for it"),
        ("ct-w8a8", group(targets=["re:("]), CheckpointError, "not a regular expression"),
        ("ct-w8a8", group(targets=["re:(a+)+$"]), LayoutError, "repeats a group"),
        ("ct-w8a8", group(targets="Linear"), CheckpointError, "list of targets"),
        ("ct-w8a8", group(weights=None), LayoutError, "quantizes no weights"),
        ("ct-w8a8", group(weights={"type": "float"}), LayoutError, "only integers"),
        ("ct-w8a8", group(weights={"strategy": "block"}), LayoutError, "per 'block'"),
        ("ct-w8a8", group(output_activations={"num_bits": 8}), LayoutError, "quantizes outputs"),
        ("ct-w8a8", group(input_activations={"num_bits": 4}), LayoutError, "num_bits 4"),
        ("ct-w8a8", group(input_activations={"type": "float"}), LayoutError, "floats"),
        ("ct-w8a8", group(input_activations={"dynamic": "local"}), LayoutError, "not read"),
        ("ct-w4a16-sym", {"quant_method": "gptq", "format": ""}, CheckpointError, "holds no weight of gptq"),
    ],
)
def test_configs_that_mean_something_else_are_refused(place, tmp_path, name, said, error, match):
    folder = place(name, **said)
    with pytest.raises(error, match=match):
        HfQuantConfig.from_checkpoint(folder)
    with pytest.raises(error, match=match):
        convert_checkpoint(folder, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


LINEAR = "model.layers.1.mlp.up_proj"


@pytest.mark.parametrize(
    ("name", "change", "error", "match"),
    [
        ("gptq-4bit-v1", lambda found: found.pop(f"{LINEAR}.scales"), CheckpointError, "up_proj.scales is missing"),
        (
            "gptq-4bit-v1",
            lambda found: found.pop(f"{LINEAR}.qweight"),
            CheckpointError,
            "belongs to no quantized module",
        ),
        ("ct-w8a8", lambda found: found.pop(f"{LINEAR}.weight_scale"), CheckpointError, "belongs to no quantized"),
        (
            "ct-w8a8",
            lambda found: found.update({f"{LINEAR}.output_scale": torch.ones(1)}),
            LayoutError,
            "output_scale beside",
        ),
        ("ct-w8a8-static", lambda found: found.pop(f"{LINEAR}.input_scale"), CheckpointError, "up_proj: input_scale"),
        (
            "ct-w8a8-static",
            lambda found: found[f"{LINEAR}.input_scale"].fill_(torch.inf),
            CheckpointError,
            "up_proj: input_scale",
        ),
        (
            "ct-w4a16-sym",
            lambda found: found.update({f"{LINEAR}.weight_shape": torch.tensor([128, 2**40])}),
            CheckpointError,
            "no 4-bit weight",
        ),
        (
            "gptq-4bit-v1",
            lambda found: found[f"{LINEAR}.scales"].fill_(torch.nan),
            CheckpointError,
            "up_proj: a scale is NaN",
        ),
        (
            "bnb-nf4-double",
            lambda found: found.pop(f"{LINEAR}.weight.nested_absmax"),
            CheckpointError,
            "no weight.nested_absmax",
        ),
        (
            "bnb-nf4",
            lambda found: found[f"{LINEAR}.weight.quant_map"].neg_(),
            LayoutError,
            "not that of NF4",
        ),
        (
            "bnb-nf4",
            lambda found: found.update({f"{LINEAR}.SCB": torch.ones(128)}),
            LayoutError,
            "INT8 of bitsandbytes.*rounded twice",
        ),
        ("gptq-4bit-v1", lambda found: found.pop("model.norm.weight"), HfQuantError, "model.norm.weight"),
    ],
)
def test_tensors_that_lie_are_refused_and_nothing_is_written(place, tmp_path, name, change, error, match):
    folder = place(name, change)
    with pytest.raises(error, match=match):
        convert_checkpoint(folder, tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    ("name", "file", "said"),
    [
        ("gptq-4bit-v1", "quantize_config.json", {"bits": 4, "group_size": 32, "desc_act": False}),
        ("awq-gemm", "quant_config.json", {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}),
    ],
)
def test_configs_of_older_releases_are_found(place, tmp_path, name, file, said):
    folder = place(name)
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / file).write_text(json.dumps(said))
    found = HfQuantConfig.from_checkpoint(folder)
    assert found.plan == HfQuantConfig.from_checkpoint(FOLDER / name).plan
    AutoModelForCausalLM.from_pretrained(folder, quantization_config=found)
    (folder / "model.safetensors").rename(folder / "gptq_model-4bit-32g.safetensors")
    assert convert_checkpoint(folder, tmp_path / "ours").plan == found.plan
    assert not (tmp_path / "ours" / file).exists()


def test_a_truncated_file_is_refused(place, tmp_path):
    folder = place("gptq-4bit-v1")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        convert_checkpoint(folder, tmp_path / "ours")


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SaveError, match="holds something"):
        convert_checkpoint(FOLDER / "gptq-4bit-v1", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_index_cannot_name_files_elsewhere(place):
    folder = place("gptq-4bit-v1")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(CheckpointError, match="names no files of the folder"):
        Source.open(folder)


def test_tensors_are_read_from_all_shards(place, tmp_path):
    folder = place("gptq-4bit-v1")
    found = load_file(folder / "model.safetensors")
    names = sorted(found)
    (folder / "model.safetensors").unlink()
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: found[name] for name in part}, folder / file)
    index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert (
        convert_checkpoint(folder, tmp_path / "a").plan == convert_checkpoint(FOLDER / folder.name, tmp_path / "b").plan
    )
    written = [(tmp_path / each / "model.safetensors").read_bytes() for each in "ab"]
    assert written[0] == written[1]


@pytest.mark.parametrize("name", ["gptq-mixed", "ct-mixed", "ct-w8a8-static", "bnb-nf4-double", "awq-gemm"])
def test_random_damage_is_an_error_of_ours_or_a_checkpoint_that_opens(name, tmp_path):
    code = f"""
    import sys
    sys.path.insert(0, {str(FOLDER.parent)!r})
    import fuzz
    fuzz.main({str(FOLDER / name)!r}, 40, 3, {str(tmp_path)!r})
    """
    result = run_python(code)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    outcomes = json.loads(result.stdout.splitlines()[-1])
    assert sum(outcomes.values()) == 40 and len(outcomes) >= 2
