"""What llama.cpp computes as Transformers does: architectures, what they are described by, and the names of tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from hf_quant.errors import ExportError

Facts = dict[str, int | float]
"""What a file says of an architecture, by the name of the writer's method without ``add_``."""


@dataclass(frozen=True)
class Architecture:
    """A type of models of Transformers as llama.cpp has it.

    Args:
        name: Its name in llama.cpp.
        describe: Gives what the file says, and raises ExportError for what llama.cpp would compute otherwise.
        biases: Ends of the names of modules that may have a bias; None: any.
        interleaves: Whether rotary positions turn neighbours there, and halves of a head in Transformers.
    """

    name: str
    describe: Callable[[Any], Facts]
    biases: tuple[str, ...] | None = None
    interleaves: bool = False


def architecture_of(model: Any) -> Architecture:
    """The architecture of a model.

    Raises:
        ExportError: It is none of `ARCHITECTURES`.
    """
    kind, found = type(model).__name__, ARCHITECTURES.get(type(model).__name__)
    if found is None:
        raise ExportError(
            f"{kind} is not written as GGUF, but {', '.join(ARCHITECTURES)} are: export it to another target, such as "
            "'onnx'"
        )
    return found


def order_of_rows(name: str, rows: int, model: Any, architecture: Architecture) -> torch.Tensor | None:
    """The order that rows of a weight or bias are written in; None: as they are.

    Args:
        name: Name of the module.
        rows: Rows of its weight.
        model: The model.
        architecture: What it is written as.
    """
    ends = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    counted = ends.get(name.rpartition(".")[2])
    if not architecture.interleaves or counted is None:
        return None
    heads = getattr(model.config, counted)
    return torch.arange(rows).view(heads, 2, rows // heads // 2).transpose(1, 2).flatten()


def position_factors(model: Any, architecture: Architecture) -> torch.Tensor | None:
    """What the frequencies of rotary positions are divided by, float32 ``[head width / 2]``; None where by nothing."""
    if not architecture.interleaves or model.config.rope_parameters["rope_type"] == "default":
        return None
    rope = model.model.rotary_emb
    steps = torch.arange(0, 2 * len(rope.inv_freq), 2, dtype=torch.float32) / (2 * len(rope.inv_freq))
    return (1.0 / model.config.rope_parameters["rope_theta"] ** steps) / rope.inv_freq.float().cpu()


def _describe_llama(model: Any) -> Facts:
    return _describe_rotary(model, ("default", "linear", "llama3"))


def _describe_qwen(model: Any) -> Facts:
    return _describe_rotary(model, ("default",))


def _describe_rotary(model: Any, ropes: tuple[str, ...]) -> Facts:
    config = model.config
    rope, kind = config.rope_parameters, type(model).__name__
    _check(config.hidden_act in ("silu", "swish"), f"{kind} with {config.hidden_act}: there it has silu")
    _check(rope["rope_type"] in ropes, f"rotary positions of {kind} scaled as {rope['rope_type']!r}")
    _check(rope.get("partial_rotary_factor", 1.0) == 1.0, "rotary positions of a part of each head")
    window = getattr(config, "sliding_window", None)
    _check(
        window is None or window >= config.max_position_embeddings,
        f"attention within a window of {window} tokens (with config.sliding_window = None and "
        f"config.max_position_embeddings = {window}, what it computes up to there is exported)",
    )
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "head_count": config.num_attention_heads,
        "head_count_kv": config.num_key_value_heads,
        "layer_norm_rms_eps": config.rms_norm_eps,
        "key_length": width,
        "value_length": width,
        "rope_dimension_count": width,
        "rope_freq_base": float(rope["rope_theta"]),
    }


def _describe_gpt2(model: Any) -> Facts:
    config = model.config
    _check(config.activation_function in ("gelu_new", "gelu_pytorch_tanh"), f"GPT-2 with {config.activation_function}")
    _check(config.scale_attn_weights, "attention that is not scaled")
    _check(not config.scale_attn_by_inverse_layer_idx, "attention scaled by layers")
    _check(not config.add_cross_attention, "cross attention")
    return {
        "context_length": config.n_positions,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.n_inner or 4 * config.n_embd,
        "head_count": config.n_head,
        "layer_norm_eps": config.layer_norm_epsilon,
    }


def _check(is_computed: bool, what: str) -> None:
    if not is_computed:
        raise ExportError(f"llama.cpp does not compute {what}: export to another target, such as 'onnx'")


_QKV = ("q_proj", "k_proj", "v_proj")
ARCHITECTURES = {
    "LlamaForCausalLM": Architecture("llama", _describe_llama, interleaves=True),
    "MistralForCausalLM": Architecture("llama", _describe_llama, interleaves=True),
    "Qwen2ForCausalLM": Architecture("qwen2", _describe_qwen, _QKV),
    "Qwen3ForCausalLM": Architecture("qwen3", _describe_qwen, ()),
    "GPT2LMHeadModel": Architecture("gpt2", _describe_gpt2),
}
"""Class of a model to what it is in llama.cpp."""
