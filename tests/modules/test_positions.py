"""How many tokens models read, proved by letting them read as many, and one more."""

import pytest
import torch
import transformers as t

import hf_quant
from hf_quant.modules.positions import most_tokens

SIZES = {
    "vocab_size": 50,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 26,
    "pad_token_id": 1,
}
BART = {
    "d_model": 64,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 26,
}
OFFSET = {
    "roberta": t.RobertaConfig(**SIZES),
    "camembert": t.CamembertConfig(**SIZES),
    "xlm-roberta": t.XLMRobertaConfig(**SIZES),
    "xlm-roberta-xl": t.XLMRobertaXLConfig(**SIZES),
    "longformer": t.LongformerConfig(**SIZES, attention_window=8),
    "data2vec": t.Data2VecTextConfig(**SIZES),
    "mpnet": t.MPNetConfig(**SIZES),
    "ibert": t.IBertConfig(**SIZES),
}
WHOLE = {
    "bert": t.BertConfig(**SIZES),
    "gpt2": t.GPT2Config(vocab_size=50, n_embd=64, n_layer=1, n_head=2, n_positions=26),
    "opt": t.OPTConfig(
        vocab_size=50, hidden_size=64, ffn_dim=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=26, word_embed_proj_dim=64,
    ),
    "bart": t.BartConfig(vocab_size=50, **BART),
}  # fmt: skip


def reads(model, length):
    try:
        # On the meta device indices are not looked at.
        model(input_ids=torch.full((1, length), 7))
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize(
    ("config", "most"),
    [*((each, 24) for each in OFFSET.values()), *((each, 26) for each in WHOLE.values())],
    ids=[*OFFSET, *WHOLE],
)
def test_a_model_reads_just_as_many_tokens_as_is_said(config, most):
    model = t.AutoModel.from_config(config).eval()
    assert most_tokens(model) == most_tokens(config) == most
    assert reads(model, most)
    if config.model_type != "longformer":  # it pads to its window
        assert not reads(model, most + 1)


def test_quantized_tables_count_as_well():
    model = t.AutoModel.from_config(OFFSET["roberta"]).eval()
    assert most_tokens(hf_quant.quantize(model, "int8", progress=False)) == 24


@pytest.mark.parametrize("offset", [0, 2])
def test_a_vocabulary_of_as_many_rows_is_no_table_of_positions(offset):
    kinds = (t.BertConfig(**{**SIZES, "vocab_size": 26}), t.BartConfig(vocab_size=26 + offset, **BART))
    for config in kinds:
        assert most_tokens(t.AutoModel.from_config(config)) == 26


def test_models_without_limit_have_none():
    assert most_tokens(t.BloomConfig()) is None
    assert most_tokens(t.T5Config()) is None


def test_a_config_that_no_model_is_made_of_says_its_own_number():
    class Own(t.PreTrainedConfig):
        model_type = "own"

    own = Own(pad_token_id=1)
    own.max_position_embeddings = 30
    assert most_tokens(own) == 30


def test_a_config_that_fits_no_whole_model_says_its_own_number():
    assert most_tokens(t.BertConfig(**{**SIZES, "num_attention_heads": 3})) == 26
