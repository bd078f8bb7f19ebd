"""A checkpoint of a Llama or GPT-2 as a GGUF file in float16, without a tokenizer."""

# The libraries are those of the peers' interpreter.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.runners.derived import config_of

_LLAMA = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GPT2 = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
_LAYERS = ("model.layers.", "transformer.h.")


def write(folder: Path, file: Path) -> None:
    """Write the checkpoint of `folder` to `file`."""
    import gguf

    config = config_of(folder)
    kind = config["model_type"]
    writer = gguf.GGUFWriter(file, kind)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    (_describe_llama if kind == "llama" else _describe_gpt2)(writer, config)
    for name, array in _tensors(folder):
        # llama.cpp adds positions and norms in float32.
        is_half = array.ndim == 2 and "wpe" not in name
        array = _as_gguf(name, array, config)
        writer.add_tensor(_renamed(name, _LLAMA if kind == "llama" else _GPT2), array.astype("f2" if is_half else "f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                yield name, tensors.get_tensor(name).float().numpy()


def _renamed(name: str, names: dict[str, str]) -> str:
    stem, kind = name.rsplit(".", 1)
    for prefix in _LAYERS:
        if stem.startswith(prefix):
            number, inner = stem.removeprefix(prefix).split(".", 1)
            return f"blk.{number}.{names[inner]}.{kind}"
    return f"{names[stem]}.{kind}"


def _as_gguf(name: str, array: np.ndarray, config: dict[str, Any]) -> np.ndarray:
    if config["model_type"] == "gpt2":
        return np.ascontiguousarray(array.T) if ".c_" in name and array.ndim == 2 else array
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    count = heads.get(name.split(".")[-2], 0)
    if not count:
        return array
    # Rotary positions turn neighbours here, and halves of a head in Transformers.
    rows, width = array.shape
    return array.reshape(count, 2, rows // count // 2, width).swapaxes(1, 2).reshape(rows, width)


def _describe_llama(writer: Any, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])


def _describe_gpt2(writer: Any, config: dict[str, Any]) -> None:
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_block_count(config["n_layer"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
