"""Computed sizes agree to the byte with files that were really written."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

import hf_quant
from hf_quant.errors import EvaluationError
from hf_quant.evaluation.file_size import _DTYPES, computed_bytes, directory_bytes, safetensors_bytes, weight_files
from tests.integration.tiny import CHECKPOINTS, tiny_model
from tests.naming import naming

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)
tensors = st.dictionaries(
    names.filter(lambda name: name != "__metadata__"),
    st.tuples(st.lists(st.integers(0, 30), max_size=3).map(tuple), st.sampled_from(list(_DTYPES))),
    max_size=12,
)


@settings(max_examples=200)
@given(tensors)
def test_any_file_has_the_size_that_is_computed(facts):
    written = save({name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in facts.items()}, {"format": "pt"})
    assert safetensors_bytes(facts) == len(written)


@pytest.mark.parametrize("preset", [None, "int8", "int4", "w8a16", "int16", "bf16"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_saved_model_has_the_size_that_is_computed(name, preset, tmp_path):
    model = tiny_model(name)
    if preset is not None:
        model = hf_quant.quantize(model, preset, progress=False)
    for max_shard in ("50GB", "100KB"):
        with naming(max_shard):
            model.save_pretrained(tmp_path / max_shard, max_shard_size=max_shard)
            assert computed_bytes(model, max_shard) == directory_bytes(tmp_path / max_shard)


def test_files_that_are_not_the_checkpoints_own_do_not_count(tmp_path):
    tiny_model("gpt2").save_pretrained(tmp_path, max_shard_size="100KB")
    size = directory_bytes(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x" * 1000)
    assert directory_bytes(tmp_path) == size and len(weight_files(tmp_path)) > 1


def test_a_shard_that_is_missing_is_an_error(tmp_path):
    index = {"weight_map": {"a": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(EvaluationError, match="does not hold the weights of a checkpoint"):
        weight_files(tmp_path)


def test_a_directory_without_weights_is_an_error(tmp_path):
    with pytest.raises(EvaluationError, match="give the directory it was saved to"):
        directory_bytes(tmp_path)
