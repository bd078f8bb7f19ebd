"""Tiny random mixture-of-experts models, whose outputs depend on every weight."""

import torch
from transformers import AutoModelForCausalLM, GptOssConfig, MixtralConfig, Qwen2MoeConfig, Qwen3MoeConfig

from tests.integration.tiny import HIDDEN, LAYERS, VOCABULARY

_SHAPE = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 128,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
_FINE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

CONFIGS = {
    "mixtral": (MixtralConfig, {"num_local_experts": 4}),
    "qwen3-moe": (Qwen3MoeConfig, _FINE),
    "gpt-oss": (GptOssConfig, {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2-moe": (Qwen2MoeConfig, {**_FINE, "shared_expert_intermediate_size": 64}),
}
"""Class of a config and what makes it tiny; the last has a shared expert."""

FAMILIES = ("mixtral", "qwen3-moe", "gpt-oss")


def expert_model(name, seed=0, spiky=False, **changes):
    """A float32 model in eval mode; `spiky`: norms make some channels far larger than others."""
    config_class, own = CONFIGS[name]
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_class(**{**_SHAPE, **own, **changes})).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "bias" not in parameter_name:
                parameter.normal_(std=HIDDEN**-0.5)
            else:
                parameter.normal_(mean=float("norm" in parameter_name), std=0.1)
            if spiky and parameter_name.endswith("layernorm.weight"):
                parameter[[3, 17, 42]] *= 12
    return model
