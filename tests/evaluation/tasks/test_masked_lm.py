"""Hidden tokens."""

import math

import pytest
import torch

from hf_quant.errors import EvaluationError
from hf_quant.evaluation import TASKS
from hf_quant.evaluation.data import open_rows
from hf_quant.evaluation.models import model_facts
from tests.evaluation.tiny import evaluated, task_model, task_rows, tiny_tokenizer


def features(**options):
    facts = model_facts(task_model("masked-lm"), tiny_tokenizer())
    return TASKS["masked-lm"](**options).features(open_rows(task_rows("masked-lm")), facts)


def test_figures_are_those_of_each_text_alone():
    losses, right, count = 0.0, 0, 0
    for feature in features():
        ids = torch.tensor([feature.sequences[0]["input_ids"]])
        with torch.inference_mode():
            logits = task_model("masked-lm")(ids).logits[0].double()
        for position, target in zip(feature.notes.positions, feature.notes.targets.tolist(), strict=True):
            assert ids[0, position] == tiny_tokenizer().mask_token_id
            losses -= float(logits[position].log_softmax(-1)[target])
            right += int(logits[position].argmax() == target)
            count += 1
    report = evaluated("masked-lm")
    assert report.metric("perplexity").reference == pytest.approx(math.exp(losses / count), rel=1e-5)
    assert report.metric("accuracy").reference == pytest.approx(right / count)
    assert report.agreement.compared == count


@pytest.mark.parametrize("fraction", [0.15, 0.5, 1.0])
def test_a_part_of_the_tokens_is_hidden_and_none_that_is_special(fraction):
    for feature, row in zip(features(mask_fraction=fraction), task_rows("masked-lm"), strict=True):
        words = row["text"].split()
        assert len(feature.notes.positions) == max(1, round(fraction * len(words)))
        assert all(0 < position <= len(words) for position in feature.notes.positions)
        kept = tiny_tokenizer()(row["text"])["input_ids"]
        assert [kept[position] for position in feature.notes.positions] == feature.notes.targets.tolist()


def test_the_seed_chooses_and_a_rows_choice_does_not_depend_on_the_others():
    def chosen(**options):
        return [feature.notes.positions for feature in features(mask_fraction=0.3, **options)]

    assert chosen() == chosen() != chosen(mask_seed=1)


def test_a_model_without_a_mask_token_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(EvaluationError, match=r"no mask token: .*try causal-lm"):
        evaluated("masked-lm", tokenizer=tokenizer)


def test_nothing_hidden_is_refused():
    with pytest.raises(EvaluationError, match="mask_fraction must be above 0"):
        evaluated("masked-lm", mask_fraction=0)
