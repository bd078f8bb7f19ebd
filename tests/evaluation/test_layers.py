"""The error of each module's output, and where it begins."""

import copy

import pytest
import torch

from hf_quant.evaluation import TASKS
from hf_quant.evaluation.data import open_rows
from hf_quant.evaluation.layers import first_growth, layer_errors
from hf_quant.evaluation.models import ModelPair, model_facts
from hf_quant.evaluation.report import LayerError
from tests.evaluation.tiny import quantized_model, task_model, task_rows, tiny_tokenizer


def errors(task, quantized, examples=4, **options):
    reference = task_model(task)
    facts = model_facts(reference, tiny_tokenizer())
    chosen = TASKS[task](**options)
    features = chosen.features(open_rows(task_rows(task)), facts)
    pair = ModelPair(chosen.part(reference), chosen.part(quantized))
    return layer_errors(pair, chosen, features, facts, examples, progress=False)


def test_errors_begin_at_the_module_that_was_changed():
    changed = copy.deepcopy(task_model("text-classification"))
    with torch.no_grad():
        changed.bert.encoder.layer[1].intermediate.dense.weight.mul_(1.1)
    found = {layer.name: layer for layer in errors("text-classification", changed)}
    names = list(found)
    start = names.index("bert.encoder.layer.1.intermediate.dense")
    assert all(found[name].relative_error == 0 for name in names[:start])
    assert all(found[name].relative_error > 0 for name in names[start:])
    assert found["bert.encoder.layer.1.intermediate.dense"].kind == "Linear"
    assert found["bert.encoder.layer.1.intermediate.dense"].depth == 5
    assert first_growth(list(found.values())) == names[start]


def test_an_error_is_the_norm_of_the_difference_over_that_of_the_reference():
    scaled = copy.deepcopy(task_model("text-classification"))
    with torch.no_grad():
        scaled.classifier.weight.mul_(1.25)
        scaled.classifier.bias.mul_(1.25)
    assert errors("text-classification", scaled)[-1].relative_error == pytest.approx(0.25, rel=1e-5)


def test_padding_does_not_count():
    quantized = quantized_model("token-classification", "int8")
    together = errors("token-classification", quantized, batch_size=4)
    alone = errors("token-classification", quantized, batch_size=1)
    for first, second in zip(together, alone, strict=True):
        if first.name.startswith("bert.encoder"):
            assert first.relative_error == pytest.approx(second.relative_error, rel=0.05), first.name


@pytest.mark.parametrize("task", ["causal-lm", "masked-lm"])
def test_modules_that_run_as_one_call_are_compared_one_by_one(task):
    model = quantized_model(task)
    names = {layer.name for layer in errors(task, model)}
    linears = {name for name, module in task_model(task).named_modules() if isinstance(module, torch.nn.Linear)}
    assert linears and linears <= names


def test_models_are_left_as_they_were():
    model = quantized_model("causal-lm")
    errors("causal-lm", model)
    assert not any(module._forward_hooks for module in model.modules())


def layers(*values):
    return [LayerError(str(index), "Linear", value) for index, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ((0.01, 0.011, 0.03, 0.05), "0"),
        ((0.001, 0.0012, 0.04, 0.05), "2"),
        ((0.0, 0.0, 0.2), "2"),
        ((0.001, 0.0015, 0.0022, 0.02, 0.011), "3"),
        ((0.0, 0.0), None),
        ((), None),
        ((0.001, 0.0015, 0.0025, 0.004, 0.007, 0.012), None),
    ],
)
def test_the_first_growth_is_notable_and_a_doubling(values, name):
    assert first_growth(layers(*values)) == name
