"""Answers that are stretches of a context."""

import copy

import pytest
import torch

from hf_quant.errors import EvaluationError
from hf_quant.evaluation.metrics.squad import answer_scores
from tests.evaluation.tiny import WORDS, evaluated, quantized_model, task_model, task_rows, tiny_tokenizer

ROWS = task_rows("question-answering")


def answer(model, question, context, longest=30):
    """The best stretch, by trying all of them, and how much better it is than no answer."""
    words, asked = context.split(), len(question.split()) + 2
    with torch.inference_mode():
        outputs = model(**tiny_tokenizer()(question, context, return_tensors="pt"))
    starts, ends = (
        logits[0, asked : asked + len(words)].tolist() for logits in (outputs.start_logits, outputs.end_logits)
    )
    scores = {
        (start, end): starts[start] + ends[end]
        for start in range(len(words))
        for end in range(start, min(start + longest, len(words)))
    }
    start, end = max(scores, key=scores.get)
    none = float(outputs.start_logits[0, 0] + outputs.end_logits[0, 0])
    return " ".join(words[start : end + 1]), scores[start, end] - none


@pytest.mark.parametrize("longest", [30, 2])
@pytest.mark.parametrize("which", ["reference", "quantized"])
def test_scores_are_those_of_trying_every_stretch(which, longest):
    model = {"reference": task_model, "quantized": quantized_model}[which]("question-answering")
    scores = [
        answer_scores(answer(model, row["question"], row["context"], longest)[0], row["answers"]["text"])
        for row in ROWS
    ]
    report = evaluated("question-answering", answer_length=longest)
    for name, column in (("exact_match", 0), ("f1", 1)):
        expected = sum(score[column] for score in scores) / len(scores)
        assert getattr(report.metric(name), which) == pytest.approx(expected, abs=0.02)


def test_long_contexts_are_read_in_windows():
    context = " ".join(WORDS) + " " + ROWS[0]["context"]
    rows = [{"question": ROWS[0]["question"], "context": context, "answers": "w1"}] * 3
    report = evaluated("question-answering", rows=rows, max_length=48, stride=10)
    assert report.examples == 3
    short = [{**row, "context": ROWS[0]["context"]} for row in rows]
    assert evaluated("question-answering", rows=short).examples == 3


@pytest.mark.parametrize(
    ("answers", "right"),
    [("w1 w2", "w1 w2"), (["w1", "w2"], "w1 / w2"), ({"text": ["w1"], "answer_start": [0]}, "w1"), ([], "")],
)
def test_answers_may_be_a_text_a_list_or_squads_mapping(answers, right):
    rows = [{**ROWS[0], "answers": answers}]
    changed = task_model("question-answering", seed=1)
    report = evaluated("question-answering", quantized=changed, rows=rows, worst=5)
    assert all(worst.label == right for worst in report.worst) and report.examples == 1


def test_a_question_without_an_answer_is_right_where_no_stretch_is_better_than_none():
    model = copy.deepcopy(task_model("question-answering"))
    # Turned towards the first token, so that about half of the questions have no answer.
    with torch.no_grad():
        first = model.bert(**tiny_tokenizer()(ROWS[0]["question"], ROWS[0]["context"], return_tensors="pt"))
        model.qa_outputs.weight[0] += 0.1 * first.last_hidden_state[0, 0]
    better = [answer(model, row["question"], row["context"])[1] for row in ROWS]
    assert 5 < sum(margin < 0 for margin in better) < 35
    rows = [{**row, "answers": {"text": [], "answer_start": []}} for row in ROWS]
    report = evaluated("question-answering", model, model, rows=rows)
    assert report.metric("exact_match").reference == sum(margin < 0 for margin in better) / len(better)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 8, "stride": 6}, "give a smaller stride"),
        ({"stride": -1}, "stride must be a whole number from 0"),
        ({"answer_length": 0}, "answer_length must be a whole number from 1"),
        ({"rows": [{**ROWS[0], "answers": 3}]}, "answers are a text, a list of texts, or a mapping"),
    ],
)
def test_what_does_not_fit_is_refused(options, message):
    with pytest.raises(EvaluationError, match=message):
        evaluated("question-answering", **options)
