"""Tiny models of every architecture that is written as GGUF."""

import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from tests.integration.tiny import VOCABULARY, tiny_model

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_ROPES = {
    "llama scaled as llama3": {**_LLAMA3, "rope_theta": 10000.0, "original_max_position_embeddings": 32},
    "llama scaled linearly": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
}
_CONFIGS = {
    "qwen2": lambda: Qwen2Config(**_SIZES, tie_word_embeddings=True),
    "qwen3": lambda: Qwen3Config(**_SIZES, head_dim=32),
    "mistral": lambda: MistralConfig(**_SIZES, head_dim=32, sliding_window=None),
    **{name: (lambda rope=rope: LlamaConfig(**_SIZES, rope_parameters=rope)) for name, rope in _ROPES.items()},
}
FAMILIES = ("llama", "llama-untied", "llama-gqa", "llama with biases", "gpt2", *_CONFIGS)


def model_of(family):
    """A float model, its weights drawn so large that logits depend on all of them."""
    if family == "llama with biases":
        return tiny_model("llama-gqa", attention_bias=True, mlp_bias=True)
    if family not in _CONFIGS:
        return tiny_model(family)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_CONFIGS[family]()).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.125)
            else:
                parameter.normal_(mean=float("norm" in name), std=0.1)
    return model
