"""Every feature is run by both models, and nothing else is kept."""

import gc
import weakref

import pytest

from hf_quant.errors import EvaluationError
from hf_quant.evaluation import TASKS
from hf_quant.evaluation.data import open_rows
from hf_quant.evaluation.models import ModelPair, model_facts
from hf_quant.evaluation.run import run
from tests.evaluation.tiny import task_model, task_rows, tiny_tokenizer


def results(task, rows=None, progress=False, **options):
    model = task_model(task)
    facts = model_facts(model, tiny_tokenizer())
    chosen, rows = TASKS[task](**options), open_rows(task_rows(task) if rows is None else rows)
    return run(chosen, ModelPair(model, model), chosen.features(rows, facts), rows, facts, progress)


def test_results_are_in_the_order_of_the_rows():
    assert [result.example for result in results("text-classification")] == list(range(40))


@pytest.mark.parametrize("task", ["text-classification", "token-classification", "masked-lm", "question-answering"])
def test_the_size_of_a_batch_changes_no_answer(task):
    small, large = results(task, batch_size=1), results(task, batch_size=64)
    for first, second in zip(small, large, strict=True):
        assert str(first.answers) == str(second.answers)


def test_logits_are_not_kept():
    logits = []
    hook = task_model("causal-lm").register_forward_hook(
        lambda module, args, outputs: logits.append(weakref.ref(outputs.logits))
    )
    found = results("causal-lm", max_length=64)
    hook.remove()
    gc.collect()
    assert found and len(logits) > 2 and not any(each() is not None for each in logits)


def test_progress_is_shown_on_request(capsys):
    results("text-classification", progress=True)
    assert "evaluating: 100%" in capsys.readouterr().err
    results("text-classification")
    assert capsys.readouterr().err == ""


def test_rows_in_which_nothing_counts_are_refused():
    with pytest.raises(EvaluationError, match="a list has nothing for token-classification to compare"):
        results("token-classification", [{"tokens": ["w1"], "ner_tags": [-100]}])
