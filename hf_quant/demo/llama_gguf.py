"""Reading a Llama model's configuration and weights from a GGUF file.

Transformers reads GGUF files too, with the same result. Here whole tensors are dequantized in numpy by nothing but the
`gguf` package, which takes seconds whichever release of transformers is installed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig

if TYPE_CHECKING:
    from gguf import GGUFReader

_OUTER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def metadata(reader: GGUFReader) -> dict[str, Any]:
    """The key-value pairs of a GGUF file as Python values (strings, numbers, lists)."""
    return {name: field.contents() for name, field in reader.fields.items()}


def llama_config(facts: dict[str, Any], tied: bool) -> LlamaConfig:
    """The configuration that a Llama GGUF file's metadata states.

    Args:
        facts: metadata of the file, as `metadata` returns it.
        tied: whether the output head is the embedding itself, that is, the file holds no ``output.weight``.
    """
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=len(facts["tokenizer.ggml.tokens"]),
        hidden_size=facts["llama.embedding_length"],
        intermediate_size=facts["llama.feed_forward_length"],
        num_hidden_layers=facts["llama.block_count"],
        num_attention_heads=facts["llama.attention.head_count"],
        num_key_value_heads=facts["llama.attention.head_count_kv"],
        max_position_embeddings=facts["llama.context_length"],
        # Stored as float32; the nearest short decimal is the number meant (1e-05, not 9.999999747378752e-06).
        rms_norm_eps=float(f"{facts['llama.attention.layer_norm_rms_epsilon']:.6g}"),
        rope_parameters={"rope_type": "default", "rope_theta": facts["llama.rope.freq_base"]},
        bos_token_id=facts["tokenizer.ggml.bos_token_id"],
        eos_token_id=facts["tokenizer.ggml.eos_token_id"],
        pad_token_id=facts["tokenizer.ggml.padding_token_id"],
        tie_word_embeddings=tied,
        dtype="float32",
    )


def llama_weights(reader: GGUFReader, config: LlamaConfig) -> dict[str, Tensor]:
    """The weights of a GGUF file in float32 under Hugging Face names, linear weights as ``[out, in]``.

    Float32 holds a 4-bit code times a half-precision scale plus a half-precision minimum to within one rounding;
    bfloat16 would move the weights by more than some of the effects worth measuring.
    """
    from gguf.quants import dequantize

    # A config without key-value heads means as many as query heads.
    key_value_heads = config.num_key_value_heads or config.num_attention_heads
    heads_of = {"attn_q": config.num_attention_heads, "attn_k": key_value_heads}
    weights = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        kind = tensor.name.split(".")[-2]
        if kind in heads_of:
            values = unpermute(values, heads_of[kind])
        # Copied where dequantizing left a view of the file: torch takes only arrays it may write to.
        owned = np.require(values, np.float32, ["C_CONTIGUOUS", "WRITEABLE"])
        weights[_hugging_face_name(tensor.name)] = torch.from_numpy(owned)
    return weights


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    """Query or key rows from llama.cpp's order to Hugging Face's; ``[heads * head_dim, in]`` both ways.

    llama.cpp rotates neighbouring channels ``(2i, 2i + 1)`` of a head together, Hugging Face ``(i, i + head_dim/2)``,
    so the rows of each head are stored interleaved.
    """
    out, width = weight.shape
    pairs = weight.reshape(heads, out // heads // 2, 2, width)
    return pairs.swapaxes(1, 2).reshape(out, width)


def _hugging_face_name(name: str) -> str:
    if name in _OUTER_NAMES:
        return _OUTER_NAMES[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if match is None or match[2] not in _BLOCK_NAMES:
        raise ValueError(f"tensor {name!r} is not part of a plain Llama model; known kinds: {sorted(_BLOCK_NAMES)}")
    return f"model.layers.{match[1]}.{_BLOCK_NAMES[match[2]]}.weight"
