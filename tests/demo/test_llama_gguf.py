"""GGUF files are read into the very weights they were written from."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_quant.demo.llama_gguf import llama_config, llama_weights, metadata, unpermute

gguf = pytest.importorskip("gguf")
WRITTEN_AS = {"embed_tokens": "token_embd", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
WRITTEN_AS |= {f"{kind}_proj": f"attn_{kind}" for kind in "qkv"} | {"o_proj": "attn_output"}
WRITTEN_AS |= {f"{kind}_proj": f"ffn_{kind}" for kind in ("gate", "up", "down")}


@pytest.fixture
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40,
        hidden_size=96,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=64,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
        tie_word_embeddings=True,
        initializer_range=0.3,
        pad_token_id=2,
    )
    return LlamaForCausalLM(config).eval()


def permute(weight, heads):
    """llama.cpp's order of query and key rows, as its converter makes it."""
    return weight.reshape(heads, 2, len(weight) // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def gguf_name(name):
    if name == "model.norm.weight":
        return "output_norm.weight"
    parts = name.removeprefix("model.").split(".")
    block = f"blk.{parts[1]}." if parts[0] == "layers" else ""
    return f"{block}{WRITTEN_AS[parts[-2]]}.weight"


@pytest.fixture
def reader(llama, tmp_path):
    """The model as llama.cpp would write it, unquantized."""
    config, file = llama.config, tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_token_list([f"t{index}" for index in range(config.vocab_size)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    for name, weight in llama.state_dict().items():
        if name != "lm_head.weight":
            heads = {"q_proj": 6, "k_proj": 2}.get(name.split(".")[-2])
            writer.add_tensor(gguf_name(name), permute(weight.numpy(), heads) if heads else weight.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf.GGUFReader(file)


def test_weights_come_back_bit_for_bit(llama, reader):
    weights = llama_weights(reader, llama_config(metadata(reader), tied=True))
    expected = {name: weight for name, weight in llama.state_dict().items() if name != "lm_head.weight"}
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_the_configuration_comes_back(llama, reader):
    found, expected = llama_config(metadata(reader), tied=True).to_dict(), llama.config.to_dict()
    not_in_the_file = {"dtype", "architectures", "initializer_range", "_name_or_path"}
    assert {name for name in expected if found.get(name) != expected[name]} <= not_in_the_file


def test_weights_own_their_memory_and_can_be_written(reader):
    weights = llama_weights(reader, llama_config(metadata(reader), tied=True))
    for weight in weights.values():
        weight.add_(1)  # a view of the memory-mapped file would fail here


def test_unpermuting_undoes_the_converters_order():
    rows = torch.randn(4 * 8, 5).numpy()
    assert (unpermute(permute(rows, heads=4), heads=4) == rows).all()
    assert (permute(rows, heads=4) != rows).any()


def test_a_tensor_of_another_architecture_is_refused(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "llama")
    writer.add_tensor("blk.0.ssm_conv1d.weight", torch.zeros(2, 2).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="not part of a plain Llama"):
        llama_weights(gguf.GGUFReader(tmp_path / "odd.gguf"), LlamaConfig())
