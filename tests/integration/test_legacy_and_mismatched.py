"""Checkpoints with old names, other prefixes or other sizes: right, or refused with a typed error."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertForSequenceClassification,
    LlamaForSequenceClassification,
)

from hf_quant import HfQuantConfig
from hf_quant.errors import CheckpointError, HfQuantError, UnsupportedModel
from tests.integration.tiny import auto_class, error, outputs, tiny_model


def renamed(source, target, rename):
    """A copy of a checkpoint under other names; `rename` gives None for what is left out."""
    target.mkdir()
    tensors = load_file(source / "model.safetensors")
    kept = {rename(name): tensor for name, tensor in tensors.items() if rename(name) is not None}
    save_file(kept, target / "model.safetensors", {"format": "pt"})
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
    return target


def gamma_and_beta(name):
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.mark.parametrize("preset", ["int8", "int4", "fp16"])
def test_legacy_names_of_layer_norms_quantize_like_todays(preset, checkpoints, load, tmp_path):
    source = renamed(checkpoints["bert"], tmp_path / "legacy", gamma_and_beta)
    model = AutoModelForMaskedLM.from_pretrained(source, quantization_config=HfQuantConfig(preset)).eval()
    assert torch.equal(outputs(model), outputs(load("bert", preset)))
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(outputs(AutoModelForMaskedLM.from_pretrained(tmp_path / "saved").eval()), outputs(model))


def test_a_quantized_checkpoint_with_legacy_names_loads_too(quantized_checkpoints, load, tmp_path):
    source = renamed(quantized_checkpoints["bert", "int8"], tmp_path / "legacy", gamma_and_beta)
    assert torch.equal(outputs(AutoModelForMaskedLM.from_pretrained(source).eval()), outputs(load("bert", "int8")))


@pytest.mark.parametrize(("name", "prefix"), [("bert", "bert."), ("gpt2", "transformer."), ("llama", "model.")])
@pytest.mark.parametrize("quantized", [False, True])
def test_a_body_without_its_prefix_is_found(
    name, prefix, quantized, checkpoints, quantized_checkpoints, load, tmp_path
):
    source = quantized_checkpoints[name, "int4"] if quantized else checkpoints[name]
    config = {} if quantized else {"quantization_config": HfQuantConfig("int4")}

    def cut(key):
        return key.removeprefix(prefix) if key.startswith(prefix) else None

    bare = renamed(source, tmp_path / "bare", cut)
    if quantized and name == "bert":
        with pytest.raises(CheckpointError, match=r"cls\.predictions\.transform\.dense\.weight is missing"):
            auto_class(name).from_pretrained(bare)
        return
    model = auto_class(name).from_pretrained(bare, **config).eval()
    expected = load(name, "int4")
    assert torch.equal(outputs(model.base_model), outputs(expected.base_model))
    if name != "bert":  # whose head is more than the tie, hence new
        assert torch.equal(outputs(model), outputs(expected))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """Directories of a float and of an int8 BERT classifier with 3 labels."""
    root = tmp_path_factory.mktemp("classifier")
    tiny_model("bert", BertForSequenceClassification, num_labels=3).save_pretrained(root / "float")
    model = BertForSequenceClassification.from_pretrained(root / "float", quantization_config=HfQuantConfig("int8"))
    model.save_pretrained(root / "int8")
    return root


@pytest.mark.parametrize("quantized", [False, True])
def test_another_number_of_labels_is_refused(quantized, classifier):
    options = {"num_labels": 7} if quantized else {"num_labels": 7, "quantization_config": HfQuantConfig("int8")}
    directory = classifier / ("int8" if quantized else "float")
    with pytest.raises((HfQuantError, RuntimeError), match=r"classifier|ignore_mismatched_sizes"):
        AutoModelForSequenceClassification.from_pretrained(directory, **options)


@pytest.mark.parametrize("quantized", [False, True])
def test_ignoring_mismatched_sizes_is_refused_where_codes_would_be_missing(quantized, classifier):
    options = {"num_labels": 7, "ignore_mismatched_sizes": True}
    if not quantized:
        options["quantization_config"] = HfQuantConfig("int8")
    with pytest.raises(HfQuantError, match=r"classifier\.weight"):
        AutoModelForSequenceClassification.from_pretrained(classifier / ("int8" if quantized else "float"), **options)


def test_a_mismatched_head_kept_float_is_new(classifier):
    config = HfQuantConfig("int8", modules_to_not_convert=["classifier"])
    model = AutoModelForSequenceClassification.from_pretrained(
        classifier / "float", quantization_config=config, num_labels=7, ignore_mismatched_sizes=True
    ).eval()
    assert outputs(model).shape == (2, 7)
    assert torch.isfinite(outputs(model)).all()
    expected = AutoModelForSequenceClassification.from_pretrained(classifier / "int8").eval()
    assert torch.equal(outputs(model.bert), outputs(expected.bert))


def test_another_vocabulary_or_width_is_refused(quantized_checkpoints, checkpoints):
    for changes in ({"vocab_size": 256}, {"intermediate_size": 256}, {"num_hidden_layers": 3}):
        with pytest.raises(HfQuantError):
            AutoModelForCausalLM.from_pretrained(quantized_checkpoints["llama", "int8"], **changes)
    for changes in ({"vocab_size": 256}, {"intermediate_size": 256}):
        config = HfQuantConfig("int8")
        with pytest.raises(HfQuantError):
            AutoModelForCausalLM.from_pretrained(checkpoints["llama"], quantization_config=config, **changes)


def test_fewer_layers_than_the_checkpoint_are_refused_or_exact(checkpoints, quantized_checkpoints):
    config = HfQuantConfig("int8")
    options = {"quantization_config": config, "num_hidden_layers": 1}
    model = AutoModelForCausalLM.from_pretrained(checkpoints["llama"], **options).eval()
    reference = AutoModelForCausalLM.from_pretrained(checkpoints["llama"], num_hidden_layers=1).eval()
    assert error(outputs(model), outputs(reference)) < 0.06
    with pytest.raises(HfQuantError):
        AutoModelForCausalLM.from_pretrained(quantized_checkpoints["llama", "int8"], num_hidden_layers=1)


@pytest.mark.parametrize("size", [160, 96])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "llama-untied"])
def test_resizing_quantized_embeddings_is_refused_and_changes_nothing(name, size, load):
    model = load(name, "int8")
    expected = outputs(model)
    with pytest.raises(UnsupportedModel, match="resize the float model"):
        model.resize_token_embeddings(size)
    assert torch.equal(outputs(model), expected)
    assert model.config.vocab_size == 128


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_float_embeddings_of_a_quantized_model_resize(name, load, tmp_path):
    embedding = {"bert": "word_embeddings", "gpt2": "transformer.wte", "llama": "embed_tokens"}[name]
    model = load(name, HfQuantConfig("int8", modules_to_not_convert=[embedding]))
    expected = outputs(model)
    model.resize_token_embeddings(160, mean_resizing=False)
    assert error(outputs(model)[..., :128], expected) < 1e-6
    model.save_pretrained(tmp_path)
    assert torch.equal(outputs(auto_class(name).from_pretrained(tmp_path).eval()), outputs(model))


def test_a_checkpoint_of_another_architecture_is_refused(quantized_checkpoints):
    with pytest.raises((HfQuantError, ValueError)):
        LlamaForSequenceClassification.from_pretrained(quantized_checkpoints["gpt2", "int8"])
