"""What follows from no name: fields of some configs, and inputs of some models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

OVERRIDES: dict[str, dict[str, Any]] = {
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"], "num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
    "esm": {"vocab_size": 64, "pad_token_id": 1, "mask_token_id": 32},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "longformer": {"attention_window": [8, 8]},
    "reformer": {"axial_pos_embds_dim": [32, 32], "axial_pos_shape": [4, 4], "attn_layers": ["local", "lsh"]},
    "xlnet": {"d_head": 16},
    "funnel": {"block_sizes": [1, 1], "d_head": 16},
    "deberta-v2": {"pooler_hidden_size": 64},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 2},
    "bamba": {"attn_layer_indices": [1]},
    "falcon_h1": {"mamba_d_ssm": 128},
}
"""Fields that follow from no name."""

NEEDED: dict[str, dict[str, Any]] = {
    "autoformer": {"label_length": 4, "prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2, 3]},
    "informer": {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2, 3]},
    "time_series_transformer": {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2, 3]},
    "chameleon": {"vocabulary_map": {"<image>": 100}},
    "emu3": {"vocabulary_map": {"<image>": 100, "<|extra_200|>": 101}},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_theta": 10000.0, "rope_type": "default"}}},
    "dbrx": {
        "attn_config": {"rope_theta": 10000.0, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 64, "hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "glm5_next_text": {"index_kpool": 4},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"], "mamba_n_heads": 8, "mamba_d_head": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "step3p5": {"sliding_window": 8},
    "pix2struct_text_model": {"initializer_range": 0.02},
    "pix2struct_vision_model": {"initializer_range": 0.02},
    "qwen3_omni_moe_talker_text": {"shared_expert_intermediate_size": 64},
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 2,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
        "ple_embed_dim": 16,
        "ngram_vocab_size_base": 512,
        "split_ngram_parts": 4,
    },
    "granite4_vision": {"deepstack_layer_map": [[-1, 0]], "spatial_target_layers": [0, 1, 0, 1]},
    "diffusion_gemma_text": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 64},
}
"""Fields that have no default that makes a model."""

TIMM: dict[str, dict[str, Any]] = {
    "vit_pe_core_large_patch14_336": {
        "architecture": "vit_pe_core_tiny_patch16_384",
        "model_args": {"depth": 2, "embed_dim": 64, "num_heads": 4, "img_size": 64},
    },
    "fastvit_mci3": {
        "hidden_size": 256,
        "model_args": {
            "inference_mode": True,
            "layers": (1, 1, 1, 1, 1),
            "embed_dims": (16, 32, 64, 96, 128),
        },
    },
    "mobilenetv5_300m_enc": {"model_args": {"channel_multiplier": 0.125}},
}
"""Architectures of timm to the fields of a small one."""

STARTS: dict[str, dict[str, Any]] = {
    "gemma4_assistant": {
        "text_config": {
            "model_type": "gemma4_text",
            "hidden_size_per_layer_input": 0,
            "vocab_size_per_layer_input": 0,
            "num_hidden_layers": 2,
            "num_kv_shared_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"],
        }
    },
    "perception_lm": {
        "vision_config": {
            "model_type": "timm_wrapper",
            "architecture": "vit_pe_core_tiny_patch16_384",
            "model_args": {"depth": 2, "embed_dim": 64, "num_heads": 4, "img_size": 64, "global_pool": ""},
        }
    },
    "musicgen": {
        "text_encoder": {"model_type": "t5"},
        "audio_encoder": {"model_type": "encodec"},
        "decoder": {"model_type": "musicgen_decoder"},
    },
    "musicgen_melody": {
        "text_encoder": {"model_type": "t5"},
        "audio_encoder": {"model_type": "encodec"},
        "decoder": {"model_type": "musicgen_melody_decoder"},
    },
}
"""What a config is made with that cannot be made with nothing."""


def _series(config: Any, generator: torch.Generator) -> dict[str, Tensor]:
    past = config.context_length + max(config.lags_sequence)
    features, future = config.num_time_features, config.prediction_length
    return {
        "past_values": torch.randn((1, past), generator=generator),
        "past_time_features": torch.randn((1, past, features), generator=generator),
        "past_observed_mask": torch.ones(1, past),
        "future_values": torch.randn((1, future), generator=generator),
        "future_time_features": torch.randn((1, future, features), generator=generator),
    }


def _patches_of_series(config: Any, generator: torch.Generator) -> dict[str, Tensor]:
    return {"past_values": torch.randn((1, config.context_length, config.num_input_channels), generator=generator)}


def _decisions(config: Any, generator: torch.Generator) -> dict[str, Tensor]:
    return {
        "states": torch.randn((1, 8, config.state_dim), generator=generator),
        "actions": torch.randn((1, 8, config.act_dim), generator=generator),
        "rewards": torch.randn((1, 8, 1), generator=generator),
        "returns_to_go": torch.randn((1, 8, 1), generator=generator),
        "timesteps": torch.arange(8).view(1, 8),
        "attention_mask": torch.ones(1, 8),
    }


def _seen_texts(config: Any, generator: torch.Generator) -> dict[str, Tensor]:
    return {
        "input_ids": torch.randint(5, 200, (1, 16), generator=generator),
        "visual_feats": torch.randn((1, 8, config.visual_feat_dim), generator=generator),
        "visual_pos": torch.rand((1, 8, config.visual_pos_dim), generator=generator),
    }


def _tiles(config: Any, generator: torch.Generator) -> dict[str, Tensor]:
    size, tiles = config.image_size, config.max_num_tiles
    return {
        "pixel_values": torch.randn((1, 1, tiles, config.num_channels, size, size), generator=generator),
        "aspect_ratio_ids": torch.tensor([[1]]),
        "aspect_ratio_mask": torch.ones(1, 1, tiles, dtype=torch.long),
    }


def _questions(config: Any, generator: torch.Generator) -> dict[str, Tensor]:
    return {
        "input_ids": torch.randint(5, 200, (1, 16), generator=generator),
        "marks": torch.tensor([[4, 9]]),
        "num_options": torch.tensor([[2, 2]]),
        "question_type_ids": torch.tensor([[0, 1]]),
    }


def _acts(config: Any, generator: torch.Generator) -> dict[str, Tensor]:
    size, images = config.vlm_config.vision_config.image_size, 1
    places = (size // config.vlm_config.vision_config.patch_size) ** 2
    ids = torch.randint(5, 60, (1, places + 8), generator=generator)
    ids[:, :places] = config.vlm_config.image_token_id
    return {
        "state": torch.randn((1, config.max_state_dim), generator=generator),
        "actions": torch.randn((1, config.chunk_size, config.max_action_dim), generator=generator),
        "input_ids": ids,
        "pixel_values": torch.randn((1, images, 3, size, size), generator=generator),
        "pixel_attention_mask": torch.ones(1, images, dtype=torch.bool),
        "attention_mask": torch.ones_like(ids),
    }


def _prompted(config: Any, generator: torch.Generator) -> dict[str, Tensor]:
    height, width = config.image_size
    images = torch.randn((3, 1, 3, height // 2, width), generator=generator)
    return {"pixel_values": images[0], "prompt_pixel_values": images[1], "prompt_masks": images[2]}


def _forecasts(config: Any, generator: torch.Generator) -> dict[str, Tensor]:
    return {"past_values": torch.randn((2, config.context_length), generator=generator)}


def _heard_in_windows(config: Any, generator: torch.Generator) -> dict[str, Tensor]:
    return {
        "input_features": torch.randn((config.num_mel_bins, 200), generator=generator),
        "feature_lens": torch.tensor([200]),
        "aftercnn_lens": torch.tensor([100]),
    }


def _heard(config: Any, generator: torch.Generator) -> dict[str, Tensor]:
    features = torch.randn((1, 64, config.input_size), generator=generator)
    return {"hidden_states": features, "mask": torch.ones(1, 64, dtype=torch.bool)}


def _short_spectrum(config: Any, generator: torch.Generator) -> dict[str, Tensor]:
    # Hundreds of samples of sound are made of each frame.
    return {"spectrogram": torch.randn(1, 16, config.model_in_dim, generator=generator)}


INPUTS: dict[str, Callable[[Any, torch.Generator], dict[str, Tensor]]] = {
    "autoformer": _series,
    "informer": _series,
    "time_series_transformer": _series,
    "patchtst": _patches_of_series,
    "patchtsmixer": _patches_of_series,
    "timesfm": _forecasts,
    "timesfm2_5": _forecasts,
    "decision_transformer": _decisions,
    "lxmert": _seen_texts,
    "mllama_vision_model": _tiles,
    "jev": _questions,
    "pi0": _acts,
    "seggpt": _prompted,
    "qwen2_5_omni_audio_encoder": _heard_in_windows,
    "qwen3_omni_moe_audio_encoder": _heard_in_windows,
    "phi4_multimodal_audio": _heard,
    "speecht5_hifigan": _short_spectrum,
    "fastspeech2_conformer_hifigan": _short_spectrum,
}
"""Types of which no single parameter tells the inputs: a function of the config and a generator."""
