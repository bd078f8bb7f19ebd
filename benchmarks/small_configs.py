"""Configs of two layers and about 64 wide for any model type, found by the names of a config's fields.

Fields are known by the words of their names; what follows from others (lists with an entry for each layer) is cut to
the layers that are left, one of each kind. Three levels: small in all, then with heads as wide as they are by default,
then only fewer layers, tokens and experts.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig

LEVELS = ("small", "wide heads", "few layers")
LAYERS, VOCABULARY = 2, 256

_LAYERS = """num_hidden_layers num_layers n_layer n_layers encoder_layers decoder_layers num_encoder_layers
num_decoder_layers depth num_blocks decoder_num_hidden_layers e_layers d_layers num_hidden_groups"""
_FEW = {
    VOCABULARY: "vocab_size vocab_size_per_layer_input vocabulary_size text_vocab_size",
    4: """num_experts num_local_experts n_routed_experts moe_num_experts num_moe_experts expert_num
    ffn_num_experts""",
    LAYERS: f"""{_LAYERS} num_experts_per_tok num_experts_per_token moe_topk moe_k moe_top_k top_k_experts
    experts_per_token num_selected_experts num_shared_experts""",
    1: "n_group topk_group first_k_dense_replace n_shared_experts",
}
_SMALL = {
    64: """hidden_size d_model n_embd embed_dim dim emb_dim embedding_size word_embed_proj_dim decoder_hidden_size
    encoder_hidden_size projection_dim out_hidden_size text_hidden_size moe_intermediate_size output_dim
    shared_expert_intermediate_size projector_hidden_size audio_hidden_size vision_hidden_size text_embed_dim
    moe_shared_expert_intermediate_size""",
    128: """intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim d_ff d_inner mlp_dim dim_feedforward ff_dim
    decoder_intermediate_size decoder_ffn_embed_dim shared_intermediate_size moe_shared_intermediate_size
    ffn_hidden_size intermediate_size_mlp encoder_intermediate_size""",
    4: """num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads attention_heads
    decoder_num_attention_heads linear_num_value_heads linear_num_heads index_n_heads""",
    2: "num_key_value_heads num_kv_heads linear_num_key_heads decoder_num_key_value_heads n_head_kv",
    16: """head_dim d_kv kv_channels v_head_dim qk_nope_head_dim linear_key_head_dim linear_value_head_dim
    index_head_dim attention_head_dim global_head_dim swa_head_dim mamba_d_head mamba_head_dim linear_head_dim
    mamba_d_state ssm_state_size""",
    8: "qk_rope_head_dim mamba_n_heads mamba_num_heads",
    32: "kv_lora_rank q_lora_rank hidden_size_per_layer_input",
}
_KIND = ("types", "block_type")
_HEAD_WIDTHS = {8, 16, 32}
_MOST = {
    "max_position_embeddings": 512,
    "n_positions": 512,
    "max_source_positions": 100,
    "index_topk": 8,
    "mamba_chunk_size": 16,
}


def _by_field(table: dict[int, str]) -> dict[str, int]:
    return {name: value for value, names in table.items() for name in names.split()}


_FEW_FIELDS, _SMALL_FIELDS = _by_field(_FEW), _by_field(_SMALL)

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


def small_config(model_type: str, level: str = LEVELS[0]) -> PretrainedConfig:
    """A config of a type, shrunk.

    Args:
        model_type: A key of Transformers' ``CONFIG_MAPPING``.
        level: One of `LEVELS`.

    Raises:
        Exception: Whatever a config class raises that does not take these fields.
    """
    return _shrunk(CONFIG_MAPPING[model_type](), level, itertools.count(100))


def _shrunk(config: Any, level: str, ids: Any) -> Any:
    fields = {each.name for each in dataclasses.fields(config)} - {"id2label", "label2id"}
    values = {name: _value(config, name) for name in fields}
    changed: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, PretrainedConfig):
            changed[name] = _shrunk(value, level, ids)
        elif isinstance(value, int) and not isinstance(value, bool):
            new = _small(config, name, value, level, ids)
            if new != value:
                changed[name] = new
    before = next((values[name] for name in _LAYERS.split() if isinstance(values.get(name), int)), None)
    if before is not None:
        _cut_lists(values, changed, before)
    for name in ("depths", "layer_depths"):
        if isinstance(values.get(name), list | tuple):
            changed[name] = [1] * len(changed.get(name, values[name]))
    if isinstance(values.get("vision_feature_layer"), list | tuple):
        changed["vision_feature_layer"] = [index % LAYERS for index in range(len(values["vision_feature_layer"]))]
    if level != LEVELS[2]:
        if all(isinstance(values.get(name), int) for name in ("image_size", "patch_size")):
            changed["image_size"] = 4 * values["patch_size"]
        if level == LEVELS[0]:
            _cut_rotary(values, changed)
            # Some classes do not read None as their configs say.
            for name, said in (("head_dim", 16), ("num_key_value_heads", 2)):
                if name in fields and values[name] is None and values.get("num_attention_heads"):
                    changed[name] = said
        changed |= {k: v for k, v in OVERRIDES.get(config.model_type, {}).items() if k in fields}
    # What is not the default is kept: a part of another config may be made with fields of its own.
    plain = type(config)()
    kept = {n: v for n, v in values.items() if n not in changed and v is not None and _differs(v, _value(plain, n))}
    return type(config)(**{**kept, **changed})


def _value(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:  # of its own for each layer
        return None


def _differs(one: Any, other: Any) -> bool:
    return isinstance(one, int | float | str | list | tuple | dict) and one != other


def _small(config: Any, name: str, value: int, level: str, ids: Any) -> int:
    if name.endswith(("token_id", "token_index")) or name in ("boi_token", "eoi_token"):
        return value if value < VOCABULARY // 4 else next(ids)
    if name in _FEW_FIELDS:
        return min(value, _FEW_FIELDS[name])
    if name in _MOST:
        return min(value, _MOST[name])
    if name not in _SMALL_FIELDS or level == LEVELS[2] or value <= 1:
        return value
    new = _SMALL_FIELDS[name]
    if name in ("num_key_value_heads", "num_kv_heads") and value == _value(config, "num_attention_heads"):
        return 4
    if level == LEVELS[1]:
        heads = _value(config, "num_attention_heads")
        width = _value(config, "head_dim") or (config.hidden_size // heads if isinstance(heads, int) else 64)
        if new in _HEAD_WIDTHS:
            return value
        return new if new <= 4 else min(value, new // 64 * 4 * width)
    return min(value, new)


def _cut_lists(values: dict[str, Any], changed: dict[str, Any], before: int) -> None:
    """Cut lists with an entry for each layer to one layer of each kind, two at least."""
    lists = {name: list(v) for name, v in values.items() if isinstance(v, list | tuple) and len(v) == before > LAYERS}
    kinds = [tuple(str(v[i]) for n, v in lists.items() if n.endswith(_KIND)) for i in range(before)]
    first = sorted({kinds.index(kind) for kind in kinds})
    chosen = first if len(first) >= LAYERS else sorted({*first, *range(LAYERS)})[:LAYERS]
    if not any(n.endswith(_KIND) for n in lists):
        chosen = list(range(min(before, LAYERS)))
    for name, value in lists.items():
        changed[name] = [value[index] for index in chosen]
    for name in _LAYERS.split():
        if lists and isinstance(values.get(name), int) and values[name] == before:
            changed[name] = len(chosen)


def _cut_rotary(values: dict[str, Any], changed: dict[str, Any]) -> None:
    """Let sections of rotary dimensions be those of heads of 16."""
    rope = values.get("rope_parameters")
    if isinstance(rope, dict) and "mrope_section" in rope:
        sections = [2, 3, 3] if len(rope["mrope_section"]) == 3 else [2] * len(rope["mrope_section"])
        changed["rope_parameters"] = {**rope, "mrope_section": sections}
