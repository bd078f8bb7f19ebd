"""Tiny random mixture-of-experts models, one for each way in which Transformers holds and calls experts."""

import torch
import transformers

_BASE = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 96,
    "vocab_size": 128,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_LATENT = {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
}
_ROUTED = {"n_routed_experts": 4, "n_shared_experts": 1, "moe_intermediate_size": 32, "num_experts_per_tok": 2}

FAMILIES = {
    # [experts, out, in], an expert's tensors apart in checkpoints, under other names
    "Mixtral": {"num_local_experts": 4},
    # the same under the names that opened experts have
    "Qwen3Moe": {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    # [experts, in, out], gate and up by turns, biases, a gate of its own
    "GptOss": {"num_local_experts": 4, "num_experts_per_tok": 2},
    # shared experts, a dense first layer
    "DeepseekV3": {**_ROUTED, **_LATENT, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    # called with equal shares of rows
    "Llama4": {"num_local_experts": 4, "intermediate_size_mlp": 96, "attention_chunk_size": 64},
    # linears on sorted rows, in attention too
    "JetMoe": {"num_local_experts": 4, "num_experts_per_tok": 2, "kv_channels": 16},
    # experts without a gate
    "NemotronH": {
        **_ROUTED,
        "layers_block_type": ["attention", "moe"],
        "moe_shared_expert_intermediate_size": 32,
        "n_group": 1,
        "topk_group": 1,
    },
    # indices beyond the experts mean the hidden states
    "LongcatFlash": {
        **_LATENT,
        "n_routed_experts": 4,
        "zero_expert_num": 2,
        "expert_ffn_hidden_size": 32,
        "ffn_hidden_size": 96,
        "moe_topk": 2,
        "num_layers": 1,
        "head_dim": 16,
    },
}


def moe_model(family, seed=0, **changes):
    """A float32 causal language model in eval mode whose outputs depend on every weight."""
    config = getattr(transformers, f"{family}{'TextConfig' if family == 'Llama4' else 'Config'}")
    torch.manual_seed(seed)
    model = getattr(transformers, f"{family}ForCausalLM")(config(**{**_BASE, **FAMILIES[family], **changes})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_norm = "norm" in name.lower() and parameter.ndim == 1
            parameter.normal_(mean=float(is_norm), std=0.1 if parameter.ndim == 1 else 64**-0.5)
    return model
