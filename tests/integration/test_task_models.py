"""One checkpoint, many model classes: heads that come, go, or are new."""

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertForSequenceClassification,
    BertModel,
    GPT2ForSequenceClassification,
    GPT2Model,
    LlamaForSequenceClassification,
    LlamaModel,
)

from hf_quant import HfQuantConfig
from hf_quant.modules.base import QuantizedModule
from tests.integration.tiny import FAMILIES, auto_class, error, outputs, tiny_model, token_ids

BASES = {"bert": BertModel, "gpt2": GPT2Model, "llama": LlamaModel}
CLASSIFIERS = {
    "bert": (BertForSequenceClassification, "classifier"),
    "gpt2": (GPT2ForSequenceClassification, "score"),
    "llama": (LlamaForSequenceClassification, "score"),
}
TASKS = {
    "bert": (AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoModelForTokenClassification),
    "gpt2": (AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification),
    "llama": (AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoModelForTokenClassification),
}
PAIRS = [(name, task) for name in FAMILIES for task in TASKS[name]]


def body(model):
    return getattr(model, model.base_model_prefix, model)


def hidden(model):
    return outputs(body(model).eval())


def float_linears(model):
    return [name for name, module in model.named_modules() if type(module) is torch.nn.Linear]


def is_new_and_float(model, head):
    module = model.get_submodule(head)
    finite = all(torch.isfinite(parameter).all() for parameter in module.parameters())
    return type(module) is torch.nn.Linear and finite and bool(module.weight.std() > 0)


@pytest.fixture(scope="module")
def base_checkpoints(tmp_path_factory):
    """Family to (float base-model checkpoint, quantized base-model checkpoint)."""
    root = tmp_path_factory.mktemp("base")
    for name in FAMILIES:
        tiny_model(name, BASES[name]).save_pretrained(root / name)
        model = AutoModel.from_pretrained(root / name, quantization_config=HfQuantConfig("int8"))
        model.save_pretrained(root / f"{name}-int8")
    return {name: (root / name, root / f"{name}-int8") for name in FAMILIES}


@pytest.mark.parametrize(("name", "task"), PAIRS)
def test_every_task_loads_a_language_model_on_the_fly(name, task, load, checkpoints):
    model = load(name, "int8", task)
    reference = task.from_pretrained(checkpoints[name]).eval()
    assert error(hidden(model), hidden(reference)) < 0.06


@pytest.mark.parametrize("preset", ["int8", "int4"])
@pytest.mark.parametrize(("name", "task"), PAIRS)
def test_every_task_loads_a_quantized_language_model(name, task, preset, load, quantized_checkpoints):
    model = task.from_pretrained(quantized_checkpoints[name, preset]).eval()
    assert torch.equal(hidden(model), hidden(load(name, preset, task)))
    assert torch.isfinite(outputs(model)).all()


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize(("name", "task"), PAIRS)
def test_every_task_loads_a_base_model(name, task, quantized, base_checkpoints):
    config = {} if quantized else {"quantization_config": HfQuantConfig("int8")}
    model = task.from_pretrained(base_checkpoints[name][quantized], **config).eval()
    expected = AutoModel.from_pretrained(base_checkpoints[name][1]).eval()
    assert torch.equal(hidden(model), outputs(expected))
    assert torch.isfinite(outputs(model)).all()


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_head_that_the_checkpoint_lacks_is_new_float_and_says_so(name, quantized, base_checkpoints, tmp_path):
    model_class, head = CLASSIFIERS[name]
    config = {} if quantized else {"quantization_config": HfQuantConfig("int8")}
    model = model_class.from_pretrained(base_checkpoints[name][quantized], **config).eval()
    assert is_new_and_float(model, head)
    assert "not in" in model.config.quantization_config.kept_float[head]

    model.save_pretrained(tmp_path)
    reloaded = model_class.from_pretrained(tmp_path).eval()
    assert torch.equal(outputs(reloaded), outputs(model))
    assert torch.equal(reloaded.get_submodule(head).weight, model.get_submodule(head).weight)
    assert "not in" in reloaded.config.quantization_config.kept_float[head]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_trained_classifier_is_quantized_with_the_rest(name, tmp_path):
    model_class, head = CLASSIFIERS[name]
    reference = tiny_model(name, model_class, num_labels=5)
    reference.save_pretrained(tmp_path / "float")
    config = HfQuantConfig("int8")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "float", quantization_config=config).eval()
    assert isinstance(model.get_submodule(head), QuantizedModule)
    assert not float_linears(model)
    ids = token_ids(rows=32)  # a label each: a few rows alone would say little
    assert error(outputs(model, ids), outputs(reference, ids)) < 0.06

    model.save_pretrained(tmp_path / "int8")
    reloaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "int8").eval()
    assert torch.equal(outputs(reloaded), outputs(model))
    features = AutoModel.from_pretrained(tmp_path / "int8").eval()
    assert torch.equal(outputs(features), hidden(model))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_new_language_model_head_over_a_base_checkpoint_follows_its_tie(name, base_checkpoints):
    # Both tie the head to the embedding, which the checkpoint holds: nothing is missing.
    model = auto_class(name).from_pretrained(base_checkpoints[name][1]).eval()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    reference = auto_class(name).from_pretrained(base_checkpoints[name][0]).eval()
    assert error(outputs(model), outputs(reference)) < 0.06


def test_a_saved_submodule_loads_as_the_base_model(load, tmp_path):
    model = load("llama", "int4")
    model.model.save_pretrained(tmp_path)
    assert torch.equal(outputs(AutoModel.from_pretrained(tmp_path).eval()), hidden(model))
