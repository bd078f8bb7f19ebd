"""Tiny models of families whose embeddings, positions or linears are of classes of their own."""

import copy

import torch
import transformers as T

from tests.integration.tiny import HIDDEN, VOCABULARY, token_ids

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 1,
}
# The root of 96 is no whole number.
_GEMMA = {**_SIZES, "hidden_size": 96, "num_key_value_heads": 2, "head_dim": 16}
_PAIR = {
    "vocab_size": VOCABULARY,
    "d_model": HIDDEN,
    "max_position_embeddings": 64,
    "scale_embedding": True,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": None,
    **{
        f"{part}_{what}": number
        for part in ("encoder", "decoder")
        for what, number in (("layers", 1), ("ffn_dim", 128), ("attention_heads", 4))
    },
}
_WHISPER = {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 64}
_XGLM = {"d_model": HIDDEN, "ffn_dim": 128, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": 64}
_OPT = {"ffn_dim": 128, "max_position_embeddings": 64, "word_embed_proj_dim": HIDDEN}
_FALCON = {key: value for key, value in _SIZES.items() if key != "intermediate_size"}
MODELS = {
    "gemma2": (T.Gemma2ForCausalLM, T.Gemma2Config(**_GEMMA)),
    "gemma3": (T.Gemma3ForCausalLM, T.Gemma3TextConfig(**_GEMMA)),
    "bart": (T.BartForConditionalGeneration, T.BartConfig(**_PAIR)),
    "marian": (T.MarianMTModel, T.MarianConfig(**_PAIR)),
    "pegasus": (T.PegasusForConditionalGeneration, T.PegasusConfig(**_PAIR)),
    "mbart": (T.MBartForConditionalGeneration, T.MBartConfig(**_PAIR)),
    "m2m100": (T.M2M100ForConditionalGeneration, T.M2M100Config(**_PAIR)),
    "bigbird-pegasus": (
        T.BigBirdPegasusForConditionalGeneration,
        T.BigBirdPegasusConfig(**_PAIR, attention_type="original_full"),
    ),
    "whisper": (
        T.WhisperForConditionalGeneration,
        T.WhisperConfig(**_PAIR, **_WHISPER, suppress_tokens=None, begin_suppress_tokens=None),
    ),
    "falcon": (T.FalconForCausalLM, T.FalconConfig(**_FALCON, bias=True)),
    "opt": (T.OPTForCausalLM, T.OPTConfig(**{**_FALCON, **_OPT})),
    "xglm": (T.XGLMForCausalLM, T.XGLMConfig(vocab_size=VOCABULARY, **_XGLM)),
}


def make(name):
    """A float model whose outputs depend on every weight."""
    model_class, config = MODELS[name]
    torch.manual_seed(0)
    model = model_class(copy.deepcopy(config)).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad and parameter.ndim == 2:
                parameter.normal_(std=HIDDEN**-0.5)
            elif parameter.requires_grad and parameter.ndim == 1:
                is_norm = "norm" in key and key.endswith("weight") and "gemma" not in name
                parameter.normal_(mean=float(is_norm), std=0.1)
    return model


def inputs(model):
    """What a model of `MODELS` reads."""
    if hasattr(model.config, "num_mel_bins"):
        return {"input_features": torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(0))}
    ids = token_ids(length=12)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@torch.no_grad()
def logits(model):
    """Logits ``[rows, tokens, vocabulary]``."""
    decoder = {"decoder_input_ids": token_ids(length=12, seed=1)} if model.config.is_encoder_decoder else {}
    return model(**inputs(model), **decoder).logits


def written(model):
    """Tokens that a model writes."""
    return model.generate(**inputs(model), max_new_tokens=6, min_new_tokens=6, do_sample=False, num_beams=1)
