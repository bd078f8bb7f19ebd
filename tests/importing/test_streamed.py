"""Files whose tensors come one at a time are those that safetensors would write, whatever the order."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hf_quant.errors import CheckpointError
from hf_quant.importing.headers import DTYPES, read_headers
from hf_quant.importing.streamed import shards, streamed_file
from hf_quant.workflows import convert_checkpoint as workflow
from tests.integration.tiny import saved_tensors

FOLDER = Path(__file__).parent / "checkpoints" / "gptq-4bit-v1"
TENSORS = {
    "bytes": torch.arange(5, dtype=torch.uint8),
    "words": torch.arange(6, dtype=torch.int32).view(2, 3),
    "halves": torch.randn(3).bfloat16(),
    "flag": torch.tensor(True),
    "long": torch.tensor([2**40]),
}
HEADERS = {name: (tuple(tensor.shape), DTYPES[tensor.dtype]) for name, tensor in TENSORS.items()}


def test_tensors_come_back_as_they_were_given_in_any_order(tmp_path):
    path = tmp_path / "model.safetensors"
    write(path, dict(reversed(TENSORS.items())), HEADERS)
    found = load_file(path)
    assert found.keys() == TENSORS.keys() and read_headers([str(path)]) == HEADERS
    assert all(
        torch.equal(found[name], tensor) and found[name].dtype == tensor.dtype for name, tensor in TENSORS.items()
    )


def write(path, given, headers):
    with streamed_file(path, headers) as file:
        for name, tensor in given.items():
            file.put(name, tensor)


@pytest.mark.parametrize("given", [{}, {"words": torch.zeros(2, 3)}, {"words": torch.zeros(3, 2, dtype=torch.int32)}])
def test_a_file_that_is_not_what_its_header_says_is_an_error(given, tmp_path):
    with pytest.raises(CheckpointError, match="words"):
        write(tmp_path / "file", given, {"words": HEADERS["words"]})


def test_groups_of_tensors_stay_together_and_files_within_their_limit():
    groups = {name: {f"{name}.a": ((10,), "I8"), f"{name}.b": ((5,), "I32")} for name in "xyz"}
    assert [list(part) for part in shards(groups, 60)] == [["x", "y"], ["z"]]
    assert [list(part) for part in shards(groups, 1)] == [["x"], ["y"], ["z"]]


def test_a_large_checkpoint_is_converted_into_several_files(tmp_path, monkeypatch):
    workflow.convert_checkpoint(FOLDER, tmp_path / "one")
    monkeypatch.setattr(workflow, "SHARD_BYTES", 20_000)
    workflow.convert_checkpoint(FOLDER, tmp_path / "several")
    index = json.loads((tmp_path / "several" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) == len(list((tmp_path / "several").glob("*.safetensors"))) > 2
    one, several = saved_tensors(tmp_path / "one"), saved_tensors(tmp_path / "several")
    assert one.keys() == several.keys() == index["weight_map"].keys()
    assert all(torch.equal(tensor, several[name]) for name, tensor in one.items())
    AutoModelForCausalLM.from_pretrained(tmp_path / "several")
