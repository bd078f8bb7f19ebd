"""A fingerprint is that of the numbers, not of the files they are in."""

import json

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import hf_quant
from hf_quant.errors import EvaluationError
from hf_quant.evaluation.fingerprint import checkpoint_fingerprint
from tests.integration.tiny import tiny_model


@pytest.fixture
def saved(tmp_path):
    folder = tmp_path / "one"
    hf_quant.quantize(tiny_model("llama"), "int4", progress=False).save_pretrained(folder)
    return folder


def test_the_same_tensors_in_other_files_have_the_same_fingerprint(saved, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(saved)
    model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert checkpoint_fingerprint(tmp_path / "shards") == checkpoint_fingerprint(saved)


def test_one_other_bit_has_another_fingerprint(saved):
    before = checkpoint_fingerprint(saved)
    tensors = load_file(saved / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.weight"][0, 0] ^= 1
    save_file(tensors, saved / "model.safetensors", {"format": "pt"})
    assert checkpoint_fingerprint(saved) != before


def test_another_plan_has_another_fingerprint(saved):
    before = checkpoint_fingerprint(saved)
    config = json.loads((saved / "config.json").read_text())
    config["quantization_config"]["plan"] = None
    (saved / "config.json").write_text(json.dumps(config))
    assert checkpoint_fingerprint(saved) != before


@pytest.mark.parametrize("spoil", ["model.safetensors", "config.json"])
def test_a_broken_checkpoint_is_an_error_that_names_it(saved, spoil):
    (saved / spoil).write_bytes(b"{")
    with pytest.raises(EvaluationError, match="is no checkpoint in safetensors that can be read"):
        checkpoint_fingerprint(saved)
