"""GGUF files of a small Llama, written with the package gguf, compute what Transformers' own reader makes of them."""

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from hf_quant import HfQuantConfig
from hf_quant.errors import CheckpointError, ConfigError, LayoutError
from hf_quant.importing.gguf import INNER, OUTER
from hf_quant.workflows.convert_checkpoint import convert_checkpoint
from tests.integration.tiny import error, outputs, tiny_model

TYPES = gguf.GGMLQuantizationType
THEIRS = {ours: theirs for theirs, ours in {**INNER, **OUTER}.items()}


def write(model, path, kind_of, architecture="llama", extra=()):
    """Write a model as llama.cpp's converter does, each matrix in the type that `kind_of` gives for its name there."""
    config, writer = model.config, gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem = name.removesuffix(".weight")
        kind = THEIRS.get(stem) or THEIRS[stem.split(".", 3)[3]]
        real = tensor.float().numpy()
        if kind in heads:
            real = real.reshape(heads[kind], 2, -1, real.shape[1]).swapaxes(1, 2).reshape(real.shape)
        full = f"{kind}.weight" if stem in THEIRS else f"blk.{stem.split('.')[2]}.{kind}.weight"
        real = np.ascontiguousarray(real)
        if real.ndim == 1:
            writer.add_tensor(full, real)
        else:
            writer.add_tensor(full, gguf.quantize(real, kind_of(kind)), raw_dtype=kind_of(kind))
    for name, tensor in extra:
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def mixed(kind):
    """Several types, floats among them."""
    return {"token_embd": TYPES.Q8_0, "attn_v": TYPES.F16, "ffn_down": TYPES.Q5_0, "attn_q": TYPES.BF16}.get(
        kind, TYPES.Q4_0
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", ["llama-gqa", "llama-untied"])
def test_a_file_becomes_what_transformers_reads_of_it(name, tmp_path):
    write(tiny_model(name), tmp_path / "tiny.gguf", mixed)
    config = convert_checkpoint(tmp_path / "tiny.gguf", tmp_path / "ours")
    assert config.plan.modules["lm_head"].weight.bits == (8 if name == "llama-gqa" else 4)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert error(outputs(ours), outputs(theirs)) < 5e-6
    floats = dict(theirs.named_parameters())
    ours.dequantize()
    for full, parameter in ours.named_parameters():
        assert torch.equal(parameter, floats[full].to(parameter.dtype)), full


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kind_of": lambda kind: TYPES.Q4_1}, "embed_tokens: its blocks have minima"),
        ({"kind_of": mixed, "architecture": "gemma"}, "no architecture of GGUF files that is read 'gemma'"),
        ({"kind_of": mixed, "extra": [("rope_freqs.weight", np.ones(8, np.float32))]}, "rope_freqs.weight means"),
    ],
)
def test_what_cannot_be_kept_is_refused(options, match, tmp_path):
    write(tiny_model("llama-gqa"), tmp_path / "tiny.gguf", **options)
    with pytest.raises(LayoutError, match=match):
        convert_checkpoint(tmp_path / "tiny.gguf", tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.gguf"]


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "tiny.gguf"
    write(tiny_model("llama-gqa"), path, mixed)
    content = path.read_bytes()
    for wrong in (content[:100], content[:-5000], b"GGUF", b"", content.replace(b"token_embd", b"output\0\0\0\0")):
        path.write_bytes(wrong)
        with pytest.raises((CheckpointError, LayoutError)):
            convert_checkpoint(path, tmp_path / "ours")


def test_files_are_not_opened_on_the_fly(tmp_path):
    write(tiny_model("llama-gqa"), tmp_path / "tiny.gguf", mixed)
    with pytest.raises(ConfigError, match=r"convert-checkpoint .*tiny\.gguf"):
        HfQuantConfig.from_checkpoint(tmp_path / "tiny.gguf")
