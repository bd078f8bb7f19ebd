"""Checkpoints that the real programs wrote (``programs/``): the same weights to the last bit, and the same logits.

``expected.json`` has a hash of what the program itself decodes each weight to, in float32.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM

import hf_quant
from hf_quant.errors import CheckpointError, ConfigError, LayoutError
from hf_quant.modules.swap import quantized_modules
from hf_quant.workflows.convert_checkpoint import convert_checkpoint
from tests.importing.programs.base import digest, ids
from tests.integration.tiny import error, saved_tensors

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "checkpoints"
REFUSED = {
    "gptq-4bit-act-order": r"layers\.0\..*act-order.*desc_act=False",
    "bnb-fp4": "levels of FP4",
}
NAMES = sorted(path.name for path in FOLDER.iterdir() if path.name not in REFUSED)
BOUNDS = {"ct-w8a8": 0.1, "ct-mixed": 0.1, "bnb-nf4": 0.05, "bnb-nf4-double": 0.05}
"""Logits that differ by more than the order of sums, relative in norm: with symmetric dynamic inputs, whose largest
number gets code 127.5 there and 127 here, and where the program's kernel for CPUs computes in half precision."""


def opened(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)


def decoded(model):
    return {name: digest(module.dequantized_weight()) for name, module in quantized_modules(model)}


@torch.no_grad()
def logits(model):
    return model(ids()).logits


@pytest.mark.parametrize("name", NAMES)
def test_converted_weights_are_those_of_the_program_and_so_are_logits(name, tmp_path):
    convert_checkpoint(FOLDER / name, tmp_path / "ours")
    model = opened(tmp_path / "ours")
    assert decoded(model) == json.loads((FOLDER / name / "expected.json").read_text())
    if (kept := FOLDER / name / "expected_logits.st").exists():
        assert error(logits(model), load_file(kept)["logits"]) < BOUNDS.get(name, 5e-6)


@pytest.mark.parametrize("name", NAMES)
def test_opening_on_the_fly_gives_what_converting_gives(name, tmp_path):
    written = convert_checkpoint(FOLDER / name, tmp_path / "ours")
    config = hf_quant.HfQuantConfig.from_checkpoint(FOLDER / name)
    assert config.plan == written.plan
    model = opened(FOLDER / name, quantization_config=config)
    assert torch.equal(logits(model), logits(opened(tmp_path / "ours")))
    model.save_pretrained(tmp_path / "saved")
    saved, converted = saved_tensors(tmp_path / "saved"), saved_tensors(tmp_path / "ours")
    assert saved.keys() == converted.keys()
    assert all(torch.equal(tensor.float(), converted[name].float()) for name, tensor in saved.items())


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_format_holds_is_refused_and_nothing_is_written(name, tmp_path):
    with pytest.raises(LayoutError, match=REFUSED[name]):
        convert_checkpoint(FOLDER / name, tmp_path / "ours")
    with pytest.raises(LayoutError, match=REFUSED[name]):
        hf_quant.HfQuantConfig.from_checkpoint(FOLDER / name)
    assert list(tmp_path.iterdir()) == []


def test_what_was_imported_is_inspected_and_checked_like_any_other(tmp_path):
    convert_checkpoint(FOLDER / "gptq-4bit-v2-asym", tmp_path / "ours")
    model = opened(tmp_path / "ours")
    found = str(hf_quant.inspect(model))
    assert "W4A16 g32 asym float16 scales" in found and "the program that quantized the checkpoint left it" in found
    report = hf_quant.check(model)
    assert report.is_right, str(report)


def test_a_config_opens_the_checkpoint_that_it_is_of_and_no_other():
    config = hf_quant.HfQuantConfig.from_checkpoint(FOLDER / "gptq-4bit-v1")
    with pytest.raises(CheckpointError, match="the same checkpoint"):
        opened(FOLDER / "gptq-3bit-v1", quantization_config=config)


def test_weights_on_disk_have_to_be_converted_first(tmp_path):
    config = hf_quant.HfQuantConfig.from_checkpoint(FOLDER / "gptq-4bit-v1")
    with pytest.raises(ConfigError, match="convert-checkpoint"):
        opened(
            FOLDER / "gptq-4bit-v1",
            quantization_config=config,
            device_map={"model.embed_tokens": "cpu", "model": "disk", "lm_head": "cpu"},
            offload_folder=tmp_path,
        )


def test_the_base_model_alone_is_opened_on_the_fly():
    config = hf_quant.HfQuantConfig.from_checkpoint(FOLDER / "gptq-4bit-v1")
    model = AutoModel.from_pretrained(FOLDER / "gptq-4bit-v1", quantization_config=config, dtype=torch.float32)
    expected = json.loads((FOLDER / "gptq-4bit-v1" / "expected.json").read_text())
    assert {f"model.{name}": found for name, found in decoded(model).items()} == expected


OPENS = """
import sys

import torch
from transformers import AutoModelForCausalLM

import hf_quant

config = hf_quant.HfQuantConfig.from_checkpoint(sys.argv[1])
AutoModelForCausalLM.from_pretrained(sys.argv[1], quantization_config=config, dtype=torch.float32)
print(*{"gptqmodel", "awq", "compressed_tensors", "auto_round", "bitsandbytes"} & set(sys.modules))
"""


@pytest.mark.parametrize("name", ["ct-mixed", "gptq-4bit-v1"])
def test_the_programs_are_not_needed(name):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", OPENS, str(FOLDER / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == ""
