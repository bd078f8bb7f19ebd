"""Models that read weights of their modules themselves: right, on kernels where it is a product, and told where not."""

import copy

import pytest
import torch
import transformers as T

import hf_quant
from tests.integration.tiny import error, token_ids

_SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
_IDS = {"vocab_size": 128, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_SPEECH = {**_SIZES, "conv_dim": (32, 32), "conv_kernel": (10, 8), "conv_stride": (5, 4), "vocab_size": 32}
_POSITIONS = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
_PROPHET = {
    **{f"num_{part}_layers": 1 for part in ("encoder", "decoder")},
    **{f"num_{part}_attention_heads": 4 for part in ("encoder", "decoder")},
    **{f"{part}_ffn_dim": 128 for part in ("encoder", "decoder")},
    "hidden_size": 64,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 0,
}
_LAYOUT = {"visual_embed": False, "coordinate_size": 12, "shape_size": 8, "max_2d_position_embeddings": 64}
_BUCKETS = {"relative_attention": True, "position_buckets": 16, "norm_rel_ebd": "layer_norm", "share_att_key": True}

MODELS = {
    # weight @ columns
    "mamba": (T.MambaForCausalLM, T.MambaConfig(**_IDS, hidden_size=64, num_hidden_layers=2, state_size=8)),
    # weights given to a function of torch
    "wavlm": (T.WavLMModel, T.WavLMConfig(**_SPEECH, **_POSITIONS)),
    # a table beside a weight, turned
    "mobilebert": (
        T.MobileBertForMaskedLM,
        T.MobileBertConfig(**_SIZES | _IDS, embedding_size=32, intra_bottleneck_size=32, true_hidden_size=32),
    ),
    # single numbers of it
    "layoutlmv3": (T.LayoutLMv3Model, T.LayoutLMv3Config(**_SIZES, **_IDS, **_LAYOUT)),
    # whole tables, as hidden states
    "prophetnet": (T.ProphetNetForConditionalGeneration, T.ProphetNetConfig(**_IDS, **_PROPHET)),
    "deberta-v2": (T.DebertaV2ForMaskedLM, T.DebertaV2Config(**_SIZES, **_IDS, **_BUCKETS, max_position_embeddings=64)),
}
DECODED = {
    "mobilebert": {"cls.predictions.decoder", "cls.predictions.dense", "mobilebert.embeddings.word_embeddings"},
    "layoutlmv3": {f"encoder.rel_pos{axis}_bias" for axis in ("", "_x", "_y")},
    "prophetnet": {"prophetnet.decoder.ngram_embeddings"},
    "deberta-v2": {"deberta.encoder.rel_embeddings"},
    "mamba": {f"backbone.layers.{layer}.mixer.conv1d.filters" for layer in (0, 1)},
}


@torch.no_grad()
def outputs(model):
    if isinstance(model, T.WavLMModel):
        return model(torch.randn(2, 800, generator=torch.Generator().manual_seed(0)))[0]
    given = {"input_ids": token_ids()}
    if model.config.is_encoder_decoder:
        given["decoder_input_ids"] = token_ids(length=6, seed=1)
    if isinstance(model, T.LayoutLMv3Model):
        given["bbox"] = torch.tensor([[1, 2, 30, 40]]).expand(2, 16, 4)
    return model(**given)[0]


def make(name):
    model_class, config = MODELS[name]
    torch.manual_seed(0)
    model = model_class(copy.deepcopy(config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=64**-0.5)
    return model


@pytest.mark.parametrize("preset", ["int8", "w4a16"])
@pytest.mark.parametrize("name", MODELS)
def test_what_reads_weights_computes_with_their_numbers(name, preset):
    model = hf_quant.quantize(make(name), preset, progress=False)
    found = outputs(model)
    read = {
        key for key, module in model.named_modules() if any(w.read_by for w in getattr(module, "weights", {}).values())
    }
    assert read == DECODED.get(name, set())
    assert error(found, outputs(model.dequantize())) < (0.08 if preset == "int8" else 1e-4)


def test_a_module_that_gives_more_than_its_rows_is_checked():
    report = hf_quant.check(hf_quant.quantize(make("prophetnet"), "int8", progress=False))
    assert report.is_right, report
    assert set(report.read) == DECODED["prophetnet"]


@pytest.mark.parametrize("name", MODELS)
def test_quantized_while_loading_and_reloaded_they_are_the_same(name, tmp_path):
    model_class = MODELS[name][0]
    make(name).save_pretrained(tmp_path / "float")
    config = hf_quant.HfQuantConfig("int8")
    loaded = model_class.from_pretrained(tmp_path / "float", quantization_config=config).eval()
    expected = outputs(
        hf_quant.quantize(model_class.from_pretrained(tmp_path / "float"), "int8", progress=False).eval()
    )
    assert torch.equal(outputs(loaded), expected)
    loaded.save_pretrained(tmp_path / "int8")
    assert torch.equal(outputs(model_class.from_pretrained(tmp_path / "int8").eval()), expected)
