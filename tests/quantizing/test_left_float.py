"""What stays float though nobody asked for it is said, with its share and reasons."""

import logging

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
)

import hf_quant
from hf_quant.quantizing.left_float import LeftFloat
from tests.modules.derived_classes import SumEmbedding

SIZES = {"vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture
def mixtral():
    torch.manual_seed(0)
    config = MixtralConfig(**SIZES, intermediate_size=128, num_key_value_heads=2, num_local_experts=4)
    return MixtralForCausalLM(config)


class Convolved(LlamaForCausalLM):
    """A language model with many weights that have no quantized counterpart."""

    def __init__(self, config):
        super().__init__(config)
        self.extra = torch.nn.ModuleList(torch.nn.ConvTranspose1d(64, 64, 3) for _ in range(4))
        self.post_init()


def convolved():
    torch.manual_seed(0)
    return Convolved(LlamaConfig(**SIZES, intermediate_size=128, num_key_value_heads=2))


def bert():
    torch.manual_seed(0)
    return BertForMaskedLM(BertConfig(**SIZES, intermediate_size=128))


def warnings_of(caplog):
    return [each.getMessage() for each in caplog.records if "stay float" in each.getMessage()]


def test_weights_that_stay_float_are_warned_of_with_their_share(caplog):
    model = convolved()
    left = sum(p.numel() for name, p in model.named_parameters() if "norm" in name or "extra" in name)
    share = left / model.num_parameters()
    with caplog.at_level(logging.WARNING, "hf_quant"):
        model = hf_quant.quantize(model, "int8", progress=False)
    (warning,) = warnings_of(caplog)
    assert warning.startswith(f"{share:.1%} of the weights stay float")
    assert "no quantized counterpart for ConvTranspose1d (extra.*)" in warning
    report = hf_quant.inspect(model)
    assert report.left_float in warning
    assert str(report).endswith(report.left_float)
    assert report.to_dict()["left_float"] == report.left_float


def test_loading_warns_on_the_fly_and_of_a_saved_checkpoint(caplog, tmp_path):
    convolved().save_pretrained(tmp_path / "float")
    config = hf_quant.HfQuantConfig("w8a16")
    with caplog.at_level(logging.WARNING, "hf_quant"):
        model = Convolved.from_pretrained(tmp_path / "float", quantization_config=config)
        model.save_pretrained(tmp_path / "quantized")
        again = Convolved.from_pretrained(tmp_path / "quantized")
    first, second = warnings_of(caplog)
    assert first == second
    assert again.config.quantization_config == model.config.quantization_config


def test_the_model_card_says_it_also_when_it_is_written_anew(tmp_path):
    model = hf_quant.quantize(convolved(), "int8", progress=False)
    said = hf_quant.inspect(model).left_float.split(";")[0].split(" (")[0]
    model.save_pretrained(tmp_path)
    assert said in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").unlink()
    hf_quant.write_model_card(tmp_path)
    assert said in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize(
    "config",
    [
        hf_quant.HfQuantConfig("int8", modules_to_not_convert=["experts"]),
        hf_quant.HfQuantConfig("int8", modules_to_not_convert=["mlp"]),
    ],
    ids=["themselves", "what they are in"],
)
def test_experts_that_the_user_leaves_out_are_not_warned_of(config, mixtral, caplog, tmp_path):
    with caplog.at_level(logging.WARNING, "hf_quant"):
        model = hf_quant.quantize(mixtral, config, progress=False)
    assert not warnings_of(caplog)
    assert hf_quant.inspect(model).float_modules["model.layers.0.mlp.experts"] == "listed in modules_to_not_convert"
    model.save_pretrained(tmp_path)
    again = MixtralForCausalLM.from_pretrained(tmp_path)
    assert hf_quant.inspect(again).float_modules == hf_quant.inspect(model).float_modules


@pytest.mark.parametrize(
    "config",
    [
        hf_quant.HfQuantConfig("int8"),
        hf_quant.HfQuantConfig("int8", overrides={"bert.*": None}),
        hf_quant.HfQuantConfig(plan=hf_quant.Plan({"*.query": hf_quant.config.presets.PRESETS["int8"].linear})),
        hf_quant.HfQuantConfig("int8", modules_to_not_convert=["bert.embeddings.word_embeddings"]),
    ],
    ids=["norms and biases", "overrides", "patterns", "an embedding and the head tied to it"],
)
def test_what_is_little_or_wished_for_is_not_warned_of(config, caplog):
    with caplog.at_level(logging.WARNING, "hf_quant"):
        model = hf_quant.quantize(bert(), config, progress=False)
    assert not warnings_of(caplog)
    assert hf_quant.inspect(model).left_float == ""


def test_a_tied_weight_counts_once_with_the_reason_of_its_embedding():
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=128,
        d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        scale_embedding=True,
    )
    model = BartForConditionalGeneration(config)
    model.model.encoder.embed_tokens.__class__ = SumEmbedding
    hf_quant.quantize(model, "int8", progress=False)
    found = LeftFloat.of(model, model.config.quantization_config.kept_float)
    total = model.num_parameters()
    table = model.model.shared.weight.numel() / total
    assert found.share < 1
    assert not any(reason.startswith("tied to ") for reason in found.reasons)
    assert {r: p for r, p in found.reasons.items() if "SumEmbedding" in r} == {
        "its class computes something else than an embedding, or reads all of it: SumEmbedding": pytest.approx(table)
    }


def test_a_model_without_parameters_has_nothing_left():
    assert str(LeftFloat.of(torch.nn.ReLU(), {})) == ""


def test_biases_of_quantized_modules_are_told_as_such():
    model = hf_quant.quantize(bert(), "int8", progress=False)
    found = LeftFloat.of(model, model.config.quantization_config.kept_float)
    assert "biases of quantized modules" in found.reasons and "not said why" not in found.reasons
