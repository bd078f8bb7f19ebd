"""Models at the shapes of real ones with random weights: speed and memory are those of the real ones."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedConfig

from hf_quant.demo.cache import build_once

# Values of the classes' defaults are left out. All have the default base of rotary positions, which versions of
# Transformers write under different names.
SHAPES: dict[str, dict[str, Any]] = {
    "bert-base": {"model_type": "bert"},
    "gpt2": {"model_type": "gpt2"},
    "gpt2-xl": {"model_type": "gpt2", "n_embd": 1600, "n_layer": 48, "n_head": 25},
    "llama-135m": {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "tie_word_embeddings": True,
    },
    "llama-1.1b": {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
    },
    "qwen3-moe": {
        "model_type": "qwen3_moe",
        "vocab_size": 32000,
        "hidden_size": 1024,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "num_experts": 32,
        "num_experts_per_tok": 4,
    },
    "llama-7b": {"model_type": "llama", "dtype": "bfloat16"},
    "llama-13b": {
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": 5120,
        "intermediate_size": 13824,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
    },
    "llama-70b": {
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    },
}
"""SmolLM2-135M and TinyLlama are the Llamas of 135 million and 1.1 billion weights; the mixture of experts has the
proportions of small ones, not the size of a real one."""

LARGE = ("llama-7b", "llama-13b", "llama-70b")
"""Too large for float32, and only measured on request."""

_SHARD_BYTES = 1 << 30
_SPREAD = 0.02


def is_encoder(model: str) -> bool:
    """Whether `model` reads a whole text at once."""
    return SHAPES[model]["model_type"] == "bert"


def checkpoint(model: str, cache: Path, layers: int | None = None) -> Path:
    """The folder of `model`, which is made on first use.

    Args:
        model: A name of `SHAPES`.
        cache: Folder that holds such folders.
        layers: How many layers it has, if not as many as the real one.
    """
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / (model if layers is None else f"{model}-{layers}-layers")
    return build_once(folder, lambda target: _write(_empty(model, layers), target))


def multiplied_weights(model: str, layers: int | None = None) -> int:
    """How many weights a token is multiplied with: those of all linears, and of the head."""
    empty = _empty(model, layers)
    embeddings = [module for module in empty.modules() if isinstance(module, nn.Embedding)]
    looked_up = {id(module.weight) for module in embeddings}
    active = getattr(empty.config, "num_experts_per_tok", 1) / getattr(empty.config, "num_experts", 1)
    shares = {2: 1.0, 3: active}  # matrices, and those of all experts
    count = int(sum(shares.get(p.ndim, 0.0) * p.numel() for p in empty.parameters() if id(p) not in looked_up))
    head = empty.get_output_embeddings()
    tied = head is not None and id(head.weight) in looked_up
    return count + (head.weight.numel() if tied else 0)


def config_of(model: str, layers: int | None = None) -> PreTrainedConfig:
    """The config of `model`."""
    shape = dict(SHAPES[model])
    config = AutoConfig.for_model(shape.pop("model_type"), **shape)
    if layers is not None:
        config.num_hidden_layers = layers
    return config


def _empty(model: str, layers: int | None) -> Any:
    auto_class = AutoModel if is_encoder(model) else AutoModelForCausalLM
    with torch.device("meta"):
        return auto_class.from_config(config_of(model, layers))


def _write(model: Any, folder: Path) -> None:
    dtype = model.config.dtype or torch.float32
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    places: dict[str, str] = {}
    for number, shard in enumerate(_shards(model, dtype)):
        name = f"model-{number:05}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        places.update(dict.fromkeys(shard, name))
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _shards(model: nn.Module, dtype: torch.dtype) -> Iterator[dict[str, torch.Tensor]]:
    # One at a time: no model has to fit into memory to be written.
    generator, shard, size = torch.Generator().manual_seed(0), {}, 0
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            tensor = torch.empty(parameter.shape, dtype=dtype).normal_(0.0, _SPREAD, generator=generator)
        else:
            tensor = torch.full(parameter.shape, 0.0 if name.endswith("bias") else 1.0, dtype=dtype)
        shard[name] = tensor
        size += tensor.nbytes
        if size > _SHARD_BYTES:
            yield shard
            shard, size = {}, 0
    if shard:
        yield shard
