import pytest
import torch
from transformers import LlamaConfig, T5Config, T5ForConditionalGeneration, UMT5Config, UMT5ForConditionalGeneration

import hf_quant
from hf_quant.errors import ExportError
from hf_quant.export.untying import check_untied, untie
from tests.integration.tiny import outputs, tiny_model

_SIZES = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_models_that_only_share_the_weight_can_be_untied(family):
    model = hf_quant.quantize(tiny_model(family), "int8")
    before, expected = model.config.to_dict(), outputs(model)
    check_untied(model)
    assert model.config.to_dict() == before and torch.equal(outputs(model), expected)


@pytest.mark.parametrize(
    ("config", "model_class"), [(T5Config, T5ForConditionalGeneration), (UMT5Config, UMT5ForConditionalGeneration)]
)
def test_models_that_scale_by_it_or_cannot_say_it_are_refused(config, model_class):
    torch.manual_seed(0)
    model = model_class(config(**_SIZES, decoder_start_token_id=0)).eval()
    with pytest.raises(ExportError, match="keep both float"):
        check_untied(model)
    assert model.config.tie_word_embeddings


def test_all_configs_within_one_are_untied():
    config = LlamaConfig(tie_word_embeddings=True)
    config.inner = LlamaConfig(tie_word_embeddings=True)
    untie(config)
    assert not config.tie_word_embeddings and not config.inner.tie_word_embeddings
