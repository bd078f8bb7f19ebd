"""Configs of two layers and 64 wide, or another width, for any model type, found by the names of a config's fields.

Fields are known by the words of their names; what follows from others (lists with an entry for each layer) is cut to
the layers that are left, one of each kind. Levels: small in all, then with heads as wide as they are by default, then
all widths a share of what they are, so that what has to agree does, then only fewer layers, tokens and experts.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from typing import Any

from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

from benchmarks.model_recipes import NEEDED, OVERRIDES, STARTS, TIMM

LEVELS = ("small", "wide heads", "a fourth", "a sixteenth", "few layers")
_SHARES = {"a fourth": 4, "a sixteenth": 16}
LAYERS, VOCABULARY = 2, 256

_LAYERS = """num_hidden_layers num_layers n_layer n_layers encoder_layers decoder_layers num_encoder_layers
num_decoder_layers depth num_blocks decoder_num_hidden_layers e_layers d_layers num_hidden_groups"""
_FEW = {
    VOCABULARY: """vocab_size vocab_size_per_layer_input vocabulary_size text_vocab_size
    encoder_hash_byte_group_vocab""",
    4: """zero_expert_num num_experts num_local_experts n_routed_experts moe_num_experts num_moe_experts expert_num
    ffn_num_experts""",
    LAYERS: f"""{_LAYERS} num_experts_per_tok num_experts_per_token moe_topk moe_k moe_top_k top_k_experts
    experts_per_token num_selected_experts num_shared_experts""",
    0: "num_kv_shared_layers",
    1: "n_group topk_group first_k_dense_replace n_shared_experts",
}
_SMALL = {
    64: """hidden_size d_model n_embd embed_dim dim emb_dim embedding_size word_embed_proj_dim decoder_hidden_size
    encoder_hidden_size projection_dim out_hidden_size text_hidden_size moe_intermediate_size output_dim
    shared_expert_intermediate_size projector_hidden_size audio_hidden_size vision_hidden_size text_embed_dim
    moe_shared_expert_intermediate_size adapter_in_dim adapter_out_dim""",
    128: """intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim d_ff d_inner mlp_dim dim_feedforward ff_dim
    decoder_intermediate_size decoder_ffn_embed_dim shared_intermediate_size moe_shared_intermediate_size
    ffn_hidden_size expert_ffn_hidden_size intermediate_size_mlp encoder_intermediate_size""",
    4: """num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads attention_heads
    decoder_num_attention_heads linear_num_value_heads linear_num_heads index_n_heads""",
    2: "num_key_value_heads num_kv_heads linear_num_key_heads decoder_num_key_value_heads n_head_kv",
    16: """head_dim d_kv kv_channels v_head_dim qk_nope_head_dim linear_key_head_dim linear_value_head_dim
    index_head_dim attention_head_dim global_head_dim swa_head_dim mamba_d_head mamba_head_dim linear_head_dim
    mamba_d_state ssm_state_size""",
    8: "qk_rope_head_dim mamba_n_heads mamba_num_heads",
    32: "kv_lora_rank q_lora_rank hidden_size_per_layer_input",
}
_STATES = ("mamba_d_state", "ssm_state_size")
_STAGES = ("depths", "hidden_sizes", "num_heads", "embed_dims", "layer_depths", "stage_num_blocks")
_INDICES = ("indexes", "indices", "idxs", "_layers", "_ids")
_KIND = ("types", "block_type")
_WIDTH = re.compile(
    r"hidden|intermediate|emb|proj|ffn|mlp|model|inner|latent|head_|dim|channel|width|units|filters|rank|d_|fusion|ff"
)
_NO_WIDTH = re.compile(
    r"^n_|num_|vocab|max|position|image|patch|kernel|stride|token|codebook_size|window|layer|expert|mel|rate|ratio|length"
    r"|conv_|index|id$|ids$|query_dim|head_type|offset|^input_|num$|audio_channels"
)
_SECTIONS = (
    *("qwen2_vl", "qwen2_5_vl", "qwen2_5_omni", "qwen3_vl", "qwen3_omni", "qwen3_5", "qwen4_exp", "glm4v", "glm46v"),
    *("glm_image", "glm_ocr", "glmga", "paddleocr_vl", "ernie4_5_vl", "hunyuan_vl", "colqwen2"),
)
"""Beginnings of types that know sections of their own where their configs say none."""
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


def small_config(model_type: str, level: str = LEVELS[0], hidden: int = 64) -> PretrainedConfig:
    """A config of a type, shrunk.

    Args:
        model_type: A key of Transformers' ``CONFIG_MAPPING``.
        level: One of `LEVELS`.
        hidden: Width, a multiple of 32; heads are a fourth of it wide.

    Raises:
        Exception: Whatever a config class raises that does not take these fields.
    """
    config = _shrunk(CONFIG_MAPPING[model_type](**STARTS.get(model_type, {})), level, itertools.count(100), hidden)
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = getattr(config, "pad_token_id", None) or 0
    return config


def _shrunk(config: Any, level: str, ids: Any, hidden: int) -> Any:
    fields = {each.name for each in dataclasses.fields(config)} - {"id2label", "label2id"}
    values = {name: _value(config, name) for name in fields}
    changed: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, PretrainedConfig):
            changed[name] = _shrunk(value, level, ids, hidden)
        elif isinstance(value, int) and not isinstance(value, bool):
            new = _small(config, name, value, level, ids, hidden)
            if new != value:
                changed[name] = new
    before = next((values[name] for name in _LAYERS.split() if isinstance(values.get(name), int)), None)
    if before is not None:
        _cut_lists(values, changed, before)
    _cut_indices(config, values, changed, before)
    for name in ("depths", "layer_depths"):
        if isinstance(values.get(name), list | tuple):
            changed[name] = [1] * len(changed.get(name, values[name]))
    if isinstance(values.get("vision_feature_layer"), list | tuple):
        changed["vision_feature_layer"] = [index % LAYERS for index in range(len(values["vision_feature_layer"]))]
    if level in _SHARES:
        changed |= {n: _share(v, _SHARES[level]) for n, v in values.items() if _is_width(n, v)}
    if isinstance(values.get("image_size"), int):
        patch = values.get("patch_size")
        stages = any(isinstance(values.get(name), list | tuple) for name in _STAGES)
        side = 64 if stages or not isinstance(patch, int) else 4 * patch
        changed["image_size"] = min(values["image_size"], 224 if level == LEVELS[-1] else side)
    elif isinstance(values.get("image_size"), list | tuple) and level != LEVELS[-1]:
        times = max(1, min(values["image_size"]) // 64)
        changed["image_size"] = [each // times for each in values["image_size"]]
    if level != LEVELS[-1]:
        if level == LEVELS[0]:
            # Some classes do not read None as their configs say.
            for name, said in (("head_dim", hidden // 4), ("num_key_value_heads", 2)):
                if name in fields and values[name] is None and values.get("num_attention_heads"):
                    changed[name] = said
            changed |= {k: v for k, v in OVERRIDES.get(config.model_type, {}).items() if k in fields}
        _cut_rotary(config.model_type, values, changed)
    changed |= TIMM.get(str(values.get("architecture")), {})
    for name, value in NEEDED.get(config.model_type, {}).items():
        if isinstance(changed.get(name), PretrainedConfig) and isinstance(value, dict):
            changed[name] = type(changed[name])(**{**changed[name].to_diff_dict(), **value})
        else:
            changed[name] = value
    # What is not the default is kept: a part of another config may be made with fields of its own.
    plain = type(config)(**STARTS.get(config.model_type, {}))
    kept = {
        n: v
        for n, v in values.items()
        if n not in changed and n[0] != "_" and v is not None and _differs(v, _value(plain, n))
    }
    extra = {n: v for n, v in vars(config).items() if n not in values and n[0] != "_" and not hasattr(plain, n)}
    return type(config)(**{**extra, **kept, **changed})


def _value(config: Any, name: str) -> Any:
    try:
        return getattr(config, name, None)
    except Exception:  # of its own for each layer
        return None


def _differs(one: Any, other: Any) -> bool:
    return isinstance(one, int | float | str | list | tuple | dict) and one != other


def _small(config: Any, name: str, value: int, level: str, ids: Any, hidden: int) -> int:
    if name.endswith(("token_id", "token_index")) or name in ("boi_token", "eoi_token"):
        return value if value < VOCABULARY // 4 else next(ids)
    if name in _FEW_FIELDS:
        return min(value, _FEW_FIELDS[name])
    if name in _MOST:
        return min(value, _MOST[name])
    if name not in _SMALL_FIELDS or level not in LEVELS[:2] or value <= 1:
        return value
    if isinstance(_value(config, "num_heads") or _value(config, "num_attention_heads"), list | tuple):
        return value  # widths of stages follow from that of the first
    new = _SMALL_FIELDS[name]
    if new >= 16 and name not in _STATES:
        new = new * hidden // 64
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


def _cut_indices(config: Any, values: dict[str, Any], changed: dict[str, Any], before: int | None) -> None:
    """Let indices of layers be those of layers that are left; as many layers are as a backbone gives outputs of."""
    out = list(_value(config, "out_indices") or ()) if isinstance(config, BackboneConfigMixin) else []
    stages = any(isinstance(values.get(name), list | tuple) for name in _STAGES)
    if before is None or stages:
        if out:
            changed["out_indices"] = out
        return
    left = max(LAYERS, len(out))
    for name in _LAYERS.split():
        if isinstance(values.get(name), int) and values[name] == before:
            left = changed[name] = max(changed.get(name, before), min(before, left))
    if out:
        changed["out_indices"] = list(range(left - len(out) + 1, left + 1))
    for name, value in values.items():
        is_free = name.endswith(_INDICES) and isinstance(value, list | tuple) and name not in changed
        if is_free and value and all(type(e) is int and 0 <= e < before for e in value) and max(value) >= left:
            changed[name] = [index % left for index in range(len(value))]


def _is_width(name: str, value: Any) -> bool:
    whole = value if isinstance(value, list | tuple) else [value]
    return bool(_WIDTH.search(name)) and not _NO_WIDTH.search(name) and all(type(each) is int for each in whole)


def _share(value: Any, share: int) -> Any:
    """A share of a width, or of a list of widths; what is narrow or odd stays, the same wherever it stands."""
    if isinstance(value, list | tuple):
        return [_share(each, share) for each in value]
    return value // share if value >= 8 * share and value % share == 0 else value


def _cut_rotary(model_type: str, values: dict[str, Any], changed: dict[str, Any]) -> None:
    """Let sections of rotary dimensions be those of the heads."""
    rope = values.get("rope_parameters")
    said = {**values, **changed}
    if not isinstance(rope, dict) or not said.get("hidden_size") or not said.get("num_attention_heads"):
        return
    if "mrope_section" in rope or (model_type.startswith(_SECTIONS) and "rope_theta" in rope):
        count = len(rope.get("mrope_section", (0, 0, 0)))
        width = said.get("head_dim") or said["hidden_size"] // said["num_attention_heads"]
        half = int(width * rope.get("partial_rotary_factor", 1)) // 2
        sections = [*[-(-half // count)] * (count - 1), half - (count - 1) * -(-half // count)]
        changed["rope_parameters"] = {**rope, "mrope_section": sections}
